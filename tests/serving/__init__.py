"""The endpoint, the Space and what it shows."""
