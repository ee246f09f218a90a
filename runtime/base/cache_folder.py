"""Where decoded arrays, downloads and compiled kernels are kept."""

import os
from pathlib import Path

from runtime.base.errors import UserError

CACHE_VARIABLE = "SKD_EDGE_CACHE"


def cache_root() -> Path:
    """The folder of `$SKD_EDGE_CACHE`, or `~/.cache/skd-edge`; UserError if `~` is no folder."""
    named = os.environ.get(CACHE_VARIABLE) or "~/.cache/skd-edge"
    try:
        return Path(named).expanduser()
    except RuntimeError as error:  # no such user, or one without a home, as in some containers
        raise UserError(
            f"there is no home folder for the cache {named}; "
            f"set {CACHE_VARIABLE} to a folder that may be written"
        ) from error
