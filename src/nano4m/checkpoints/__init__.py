"""Checkpoints: the folder of a model, the published format, and conversion between them."""
