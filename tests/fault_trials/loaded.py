"""Importing this imports all that commands need: once, by the process that others fork from."""

from fault_trials.scene import load_all

load_all()
