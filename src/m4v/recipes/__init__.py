"""Layer 6: complete run configurations as typed functions."""
