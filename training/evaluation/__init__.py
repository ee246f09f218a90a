"""How good a student is. Imports nothing that trains or writes."""
