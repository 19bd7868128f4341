"""Growth inside a training run: what happens to updates, schedules and checkpoints when a model becomes larger."""
