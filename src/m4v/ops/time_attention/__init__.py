"""Attention between whole frames, cells read where they lie: its definition in plain torch and Triton kernels."""
