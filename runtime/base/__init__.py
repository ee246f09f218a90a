"""What every part of the runtime stands on: errors, files, commands. Imports no other folder."""
