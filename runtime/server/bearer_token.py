"""The token that programs send to a server of ours, by the environment."""

import os

TOKEN_VARIABLE = "SKD_EDGE_TOKEN"


def bearer_token() -> str | None:
    """The token to ask for; None, nothing is asked for, where the variable is unset or blank."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None
