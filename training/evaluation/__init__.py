"""How good a student is. Imports nothing that trains or that writes a run's files."""
