"""The search of settings: spaces, trials, and what was found.

It imports studies, records, networks and config, and nothing that trains in this process; Optuna is
imported by `proposals`, `proposer`, `search`, `search_report` and `trial_journal` alone.
"""
