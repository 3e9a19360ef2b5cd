"""The token table on disk, and dense batches of tokens."""
