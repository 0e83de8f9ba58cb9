"""Annotated data: from files to checked rows, from rows to features and batches."""
