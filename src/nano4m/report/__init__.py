"""The report: a leaf, nothing imports it."""
