"""The road of a run: its stages in order, what each depends on, and what there is."""
