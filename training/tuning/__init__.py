"""The search of settings: spaces, trials, and what was found."""
