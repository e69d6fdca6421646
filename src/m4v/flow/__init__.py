"""Layer 2: pyramid flow matching as pure maths - schedule, path, history, corruption, solver, guidance."""
