"""Layer 2: networks - denoiser, video autoencoder, text encoder."""
