"""Checkpoints on disk: safetensors headers, reading, writing. Knows nothing of growth."""
