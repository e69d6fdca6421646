"""Token mixers of single-stream blocks: tokens in, mixed tokens out, no output projection of their own."""
