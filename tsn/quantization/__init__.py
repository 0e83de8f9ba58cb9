"""Export to ONNX and quantization to int8."""
