"""What every part of the runtime needs: errors, files, commands. May not import other folders."""
