"""The HTTP server: requests of many callers in batches, worker processes, limits, metrics and a page to try it."""
