"""The token table on disk and the form of a batch of tokens."""
