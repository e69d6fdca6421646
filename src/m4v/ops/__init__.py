"""Layer 1: tensor functions, each with a plain torch definition and, where it pays, a fast path."""
