"""How the page looks: markup, charts, colours, words. Imports no model."""
