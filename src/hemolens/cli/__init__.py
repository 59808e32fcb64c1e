"""The command line: the only Hydra-aware code."""
