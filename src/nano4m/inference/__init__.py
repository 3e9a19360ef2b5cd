"""Media in, media out, by a finished run: the command ``nano4m generate``."""
