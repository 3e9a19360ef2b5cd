"""Probes of a trained model, and their results."""
