"""Export of an interest bundle to a Triton model repository: ONNX graphs, configs and parity checks with torch."""
