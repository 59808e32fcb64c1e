"""Tables and figures after training."""
