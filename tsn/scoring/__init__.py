"""Scoring tables of any size: reading rows, processes or a Ray cluster, output in parts, and a report."""
