"""The M4V denoiser: re-composition, mixers, blocks and their assemblies (paper Sec. 3, Fig. 2)."""
