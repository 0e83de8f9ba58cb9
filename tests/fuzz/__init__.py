"""Properties that hold for any input whatever, each of which `python -m tests.fuzz` searches for a counterexample.

A target is an ordinary Hypothesis test: `test_fuzz.py` runs a few hundred examples of each, and here Atheris drives it
by code coverage.
"""

TARGETS = ("chunker", "tags", "pipeline", "loader", "table", "command", "configuration")
# What a target searches, so that Atheris measures which branches of it an input takes: modules, and whole packages.
MODULES = ("chunking_tsn", "tagging_tsn", "pipeline_tsn", "configuration_tsn", "tsn")
