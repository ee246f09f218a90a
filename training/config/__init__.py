"""What a run is asked for: options, recipe, plan. Imports no torch and nothing else of training."""
