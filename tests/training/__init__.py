"""`train.py` and `tsn/training`."""
