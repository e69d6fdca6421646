"""MM-token re-composition and its inverse (Sec. 3.3, Fig. 2c)."""
