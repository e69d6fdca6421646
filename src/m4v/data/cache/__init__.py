"""Latents and encoded captions of a data set on disk, checked against everything they depend on."""
