"""Synthetic worlds with known dynamics: the parts that benchmarks/quality/worlds.py puts together."""
