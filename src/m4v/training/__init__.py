"""Layer 5: the training loop, its objectives and its state."""
