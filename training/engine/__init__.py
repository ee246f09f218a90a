"""The loop that trains: steps, processes, devices. Knows no method by its name and no study."""
