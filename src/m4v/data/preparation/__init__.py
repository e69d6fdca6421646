"""Long videos to single-shot clips (paper Sec. 4.1, Appendix D: what the training data look like)."""
