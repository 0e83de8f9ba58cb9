"""`release.py` and `tsn/hub`, against a Hub on loopback."""
