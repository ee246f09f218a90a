"""How fast a model is on this machine. Imports no server and no command."""
