"""How the page looks and words things. Imports neither a tab nor anything of `demo.service`."""
