"""Where decoded arrays, downloads and compiled kernels are kept."""

import os
from pathlib import Path

CACHE_VARIABLE = "SKD_EDGE_CACHE"


def cache_root() -> Path:
    """The folder of `$SKD_EDGE_CACHE`, or `~/.cache/skd-edge`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "skd-edge"
