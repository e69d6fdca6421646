"""Layer 1: video and image files to and from uint8 arrays."""
