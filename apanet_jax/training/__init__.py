"""Loss, step, loop and checkpoints of a training."""
