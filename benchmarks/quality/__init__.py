"""The quality benchmark: evaluates Ebbtide, its ablations and common recommenders under one protocol."""
