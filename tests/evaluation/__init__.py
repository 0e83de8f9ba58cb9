"""`eval.py` and `tsn/evaluation`."""
