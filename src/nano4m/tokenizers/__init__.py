"""Tokenizers: media to ids and back."""
