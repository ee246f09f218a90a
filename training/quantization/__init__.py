"""Where int8 stands in a student, and training for it. Imports nothing that steps or writes."""
