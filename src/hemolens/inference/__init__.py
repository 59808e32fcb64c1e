"""Load a checkpoint, predict, write results."""
