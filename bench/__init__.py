"""The benchmark: `python -m bench.speed CHECKPOINT`."""
