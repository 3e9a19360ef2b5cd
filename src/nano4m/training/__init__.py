"""Training: trainer, batches, steps on a CPU or a GPU, loss, optimizers, training state."""
