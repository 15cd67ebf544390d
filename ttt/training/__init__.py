"""One training loop for whatever is trained: data, step, hooks; state, ranks, optimizers."""
