"""WebDataset tars with an index of byte offsets, so that any clip can be read at once."""
