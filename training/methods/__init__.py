"""One file a method: its terms, modules and memory. Imports nothing that steps or writes."""
