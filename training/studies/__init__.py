"""Studies of many runs: their plan, runs, lines, tables and pages. Imports no command."""
