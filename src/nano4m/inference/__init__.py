"""Generation of media from media by a finished run: the command ``nano4m generate``."""
