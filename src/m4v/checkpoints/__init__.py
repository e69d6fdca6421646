"""Layer 3: files to modules and back - model folders, key maps, conversions, initialisation."""
