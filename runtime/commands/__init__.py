"""The commands of `python -m runtime`, one module each with `main(arguments) -> int`."""
