"""Does what a plan says: to a state dict (the reference), a live module, a checkpoint on disk."""
