"""Layer 7: ablations and run reports, composed from recipes, training, evaluation and analysis."""
