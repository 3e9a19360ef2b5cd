"""Training: the trainer, its batches, its steps on a CPU or a GPU, loss, optimizers, state."""
