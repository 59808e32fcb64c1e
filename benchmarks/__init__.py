"""Speed and memory of hemolens beside its peers: ``python -m benchmarks --help``.

Rules: both sides do the same work in one process in turn, equal output is asserted, and the ratio of each
pair counts, not the ratio of two averages. Each configuration is printed in full.
"""
