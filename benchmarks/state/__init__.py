"""Benchmark of users' states: asked by id, observed, backfilled; with the embedded store and with Redis."""
