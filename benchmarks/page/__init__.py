"""Builds docs/benchmarks.md, and the worked numbers of docs/capacity.md, from what the benchmarks wrote."""
