"""`score.py` and `tsn/scoring`."""
