"""The commands of `python -m runtime`, one module each with `main(arguments) -> int`.

No other room of the runtime imports them, nor does the page.
"""
