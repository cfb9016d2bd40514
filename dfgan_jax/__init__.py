"""DFGAN and AttnDFGAN: low-dose CT denoising in JAX and Flax."""

__version__ = "0.1.0"
