"""From an interest bundle to a Triton model repository: ONNX graphs, configs, parity with torch."""
