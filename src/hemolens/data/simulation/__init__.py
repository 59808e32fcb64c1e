"""Simulated data sets of tomograms on disk, made once, in several processes."""
