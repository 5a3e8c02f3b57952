"""The quality benchmark: Ebbtide, its ablations and the usual recommenders under one protocol, scored by one code."""
