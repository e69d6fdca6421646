"""Layer 3: clips for training - sources, mixing, order, prefetch, cached latents, dataset folders."""
