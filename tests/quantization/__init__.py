"""`quantize.py` and `tsn/quantization`."""
