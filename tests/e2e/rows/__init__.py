"""The table of wrong inputs: what is broken, which command meets it, the answer word for word."""
