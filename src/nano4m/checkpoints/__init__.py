"""Checkpoints: the folder of a model, the published form, and the way between them."""
