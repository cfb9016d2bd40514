"""DFGAN and AttnDFGAN: low-dose CT denoising in JAX and Flax."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfgan_jax.denoising.denoiser import Denoiser

__version__ = "0.1.0"
__all__ = ["Denoiser"]


def __getattr__(name: str) -> object:
    # Imported on first use, since importing JAX takes longer than --help should.
    if name == "Denoiser":
        from dfgan_jax.denoising.denoiser import Denoiser

        return Denoiser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
