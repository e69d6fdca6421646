"""VBench's standard protocol: what it asks for, exporting videos for it, and its scores from its result files."""
