"""Training: a step, an engine, runs and checkpoints on disk."""
