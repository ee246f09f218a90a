"""What runs a model, and what is missing where it does not. May import only `model` and `base`."""
