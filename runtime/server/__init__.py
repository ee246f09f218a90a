"""The HTTP API over a Batcher; needs the extra `serve`. Imports no command and no page."""
