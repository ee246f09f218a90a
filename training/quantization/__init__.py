"""Where int8 numbers stand in a student, and its training through them. Knows no loop, no file."""
