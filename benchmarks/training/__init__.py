"""Benchmarks of training: speed against SASRec, and memory on a log of millions of events."""
