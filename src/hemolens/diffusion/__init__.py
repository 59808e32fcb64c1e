"""Denoising diffusion: the schedule of noise, its posterior, and sampling with few large steps."""
