"""What a run writes, and reads again. Imports neither `engine` nor `studies`."""
