"""Layer 4: text-to-video, image-to-video and streaming around one autoregressive unit loop."""
