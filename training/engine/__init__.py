"""The loop that trains: steps, processes, devices. Imports no study; knows no method by name."""
