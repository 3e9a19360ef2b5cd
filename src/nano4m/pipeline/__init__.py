"""The pipeline: the stages of a run in order, their dependencies, and information about runs."""
