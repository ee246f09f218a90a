"""What an export takes from a trained run. Only this folder of export imports `training`."""
