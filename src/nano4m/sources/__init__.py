"""Sources of clips, by name."""
