"""The tabs of the page, each in one file. Imports no server."""
