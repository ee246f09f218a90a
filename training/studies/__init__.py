"""Many runs: what they compare, run, and say. Imports no command."""
