"""The speed of a row of the tables on this machine."""

import dataclasses
import statistics
import time
from typing import Final

import jax
import numpy as np
from jaxtyping import Float

from dfgan_jax.evaluation.rows import Row
from dfgan_jax.support.spacing import evenly_spaced

_SECONDS: Final = 1.0
_MOST_CALLS: Final = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """The time and the work of a slice.

    Attributes:
      slices_per_s: from HU to HU, in memory.
      gflop: 10⁹ floating-point operations of a slice; None for a denoiser that is no network.
    """

    slices_per_s: float
    gflop: float | None


def measure_speed(row: Row, qdct: Float[np.ndarray, "n h w"], *, first_s: float) -> Speed | None:
    """Times a row that has denoised these slices before, so that its program is compiled.

    A network denoises a batch, filled up by repeated slices, since it takes the time of a full one
    anyhow; a classical denoiser the middle slice, a user's own function all slices, as before; the
    median of at most five calls counts.

    Args:
      row: to time.
      qdct: (N, H, W), HU.
      first_s: duration of the row's first call, of all slices [s]; a user's own function that took
        longer than a second is not called again.

    Returns:
      None for the input, for slices that were denoised elsewhere, and for a run of several
      processes.
    """
    denoiser = row.denoiser
    if jax.process_count() > 1 or row.table.kind == "input" or not row.is_function:
        return None
    if denoiser is not None:
        count = denoiser.slices_per_batch(qdct.shape[1:], count=len(qdct))
        chosen = qdct[np.arange(count) % len(qdct)]
    elif row.table.kind == "baseline":
        chosen = qdct[evenly_spaced(len(qdct), most=1)]
    elif first_s > _SECONDS:
        return Speed(slices_per_s=len(qdct) / first_s, gflop=None)
    else:
        chosen = qdct
    times: list[float] = []
    while len(times) < _MOST_CALLS and sum(times) < _SECONDS:
        start = time.perf_counter()
        row.denoise(chosen, None)
        times.append(time.perf_counter() - start)
    return Speed(slices_per_s=len(chosen) / statistics.median(times),
                 gflop=None if denoiser is None else denoiser.flops(qdct.shape[1:]) / 1e9)
