"""What the tabs ask for: models, pictures and figures. Imports no tab and no Gradio."""
