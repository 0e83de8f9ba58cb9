"""`scripts`."""
