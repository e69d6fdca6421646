"""Blocks of the denoiser (Fig. 2a)."""
