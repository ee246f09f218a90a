"""What runs a model, and why something does not run here. Imports no classifier, no server."""
