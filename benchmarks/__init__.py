"""Benchmarks: each module is a command, see the Makefile."""
