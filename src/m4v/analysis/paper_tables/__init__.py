"""The paper's tables of cost recomputed from our classes, ours beside the printed numbers; one module per table."""
