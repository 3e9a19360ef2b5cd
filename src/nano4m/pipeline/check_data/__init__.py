"""What a run would make of a user's folder: ``nano4m check-data``."""
