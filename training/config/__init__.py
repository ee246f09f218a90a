"""What a run is asked for: options, recipe, plan. Imports no torch and no folder of training."""
