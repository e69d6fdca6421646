"""The causal video autoencoder that turns pixels into latents and back."""
