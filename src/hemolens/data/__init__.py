"""Datasets, transforms, splits; start at contracts.py."""
