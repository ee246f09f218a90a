"""The page's tabs and panes, one file for each, named as on the page.

Imports neither `demo.server` nor `demo.page` nor `demo.app`, and no command of the runtime.
"""
