"""Layer 5: parameters, FLOPs, memory and benchmarks."""
