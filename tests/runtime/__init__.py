"""The files that travel to the Hub and load there."""
