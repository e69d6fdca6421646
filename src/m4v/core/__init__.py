"""Layer 0: values that travel between rooms - shapes, sequence layouts, text conditioning, randomness, files."""
