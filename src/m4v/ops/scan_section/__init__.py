"""The whole scan section of a mixer as one operation: its definition in plain torch and Triton kernels beside it."""
