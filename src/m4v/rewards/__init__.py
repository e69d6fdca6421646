"""Layer 3: reward scorers and learned judges."""
