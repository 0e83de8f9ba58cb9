"""`tsn/data`."""
