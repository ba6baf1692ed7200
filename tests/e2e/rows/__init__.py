"""The table of wrong inputs: what is broken, the command that meets it, the answer word for word."""
