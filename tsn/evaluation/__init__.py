"""Evaluation: the metrics of the three heads, calibration and pictures."""
