"""What a run writes and reads again. Imports nothing that trains."""
