"""From what a network gives to results: pure functions."""
