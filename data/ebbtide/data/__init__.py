"""Event logs, catalogs, sessions and splits: what training, evaluation and load tests read."""
