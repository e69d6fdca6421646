"""Rows averaged into cells and brought back: plain torch, and a Triton kernel for prediction."""
