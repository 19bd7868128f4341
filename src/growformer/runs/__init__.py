"""A training run that grows: schedules in plain loops and in Trainer, replay, proposals."""
