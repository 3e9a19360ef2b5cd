"""Faults of a run on purpose, and whether it survives them; also for benchmarks/faults.py."""
