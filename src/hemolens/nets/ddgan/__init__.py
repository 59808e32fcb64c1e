"""Networks of denoising diffusion GANs."""
