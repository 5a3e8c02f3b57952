"""Benchmarks of training: its speed compared with SASRec, and its memory on a log of millions of events."""
