"""Layer 5: scores of generated videos."""
