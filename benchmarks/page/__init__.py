"""Builds docs/benchmarks.md, and the numbers of two other pages, from what the benchmarks wrote."""
