"""What the tabs ask for: models, pictures, guarded uploads. Imports no tab."""
