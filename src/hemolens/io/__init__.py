"""Readers and writers of files. No torch."""
