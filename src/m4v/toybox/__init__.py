"""The procedural captioned-video world: scenes, pictures, captions and labels from one record (numpy, numba)."""
