"""Which scans a model knows: the ranges of noise, kernel and pixel pitch that it was trained on."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dfgan_jax.simulation.noise_estimation import estimate_noise
from dfgan_jax.support.errors import InputError

PERCENTILES: Final = (5.0, 95.0)
"""Of the training slices, that the ranges span."""

MARGIN: Final = 1.15
"""Factor beyond a range that counts as within it: the estimates are good to 10 or 15 %."""


class ScanProperties(NamedTuple):
    """What a slice shows of its scan.

    Attributes:
      noise_hu: standard deviation of the noise [HU] where soft tissue is most uniform; None
        where that cannot be measured: too little soft tissue, or too coarse pixels.
      kernel_lp_cm: f50 of the reconstruction kernel [lp/cm]; None likewise.
      pixel_spacing_mm: pixel pitch [mm].
    """

    noise_hu: float | None
    kernel_lp_cm: float | None
    pixel_spacing_mm: float


_UNITS: Final = {"noise_hu": "noise of {} HU", "kernel_lp_cm": "kernel with an f50 of {} lp/cm",
                 "pixel_spacing_mm": "pixels of {} mm"}


def measure(hu: np.ndarray, *, pixel_spacing_mm: float, outside: np.ndarray | None = None
            ) -> ScanProperties:
    """Noise and kernel of a slice, by `noise_estimation.estimate_noise`.

    Args:
      hu: (H, W) float32.
      pixel_spacing_mm: pixel pitch, of square pixels.
      outside: (H, W) bool, the pixels outside the field of view.
    """
    try:
        noise = estimate_noise(hu, pixel_spacing_mm=pixel_spacing_mm, outside=outside)
    except InputError:
        return ScanProperties(None, None, pixel_spacing_mm)
    return ScanProperties(noise.noise_std_hu, float(noise.kernel), pixel_spacing_mm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """Ranges of the low-dose slices that a model was trained on, lowest and highest.

    Attributes:
      noise_hu: see `ScanProperties`; None where no slice showed it.
      kernel_lp_cm: likewise.
      pixel_spacing_mm: pixel pitch.
      size: height and width of the slices, the smallest and the largest [pixels].
      simulated: whether the low dose was simulated.
      slices: how many were measured.
    """

    noise_hu: tuple[float, float] | None
    kernel_lp_cm: tuple[float, float] | None
    pixel_spacing_mm: tuple[float, float]
    size: tuple[int, int]
    simulated: bool
    slices: int

    @classmethod
    def of(cls, measured: Sequence[ScanProperties], *, sizes: Iterable[int], simulated: bool
           ) -> "Domain":
        """The domain of slices, of which there is at least one."""
        ranges: dict[str, Any] = {}
        for name in ScanProperties._fields:
            values = _known(measured, name)
            ranges[name] = tuple(float(f"{value:.4g}") for value in np.percentile(
                values, PERCENTILES)) if values else None
        sizes = list(sizes)
        return cls(size=(min(sizes), max(sizes)), simulated=simulated, slices=len(measured),
                   noise_hu=ranges["noise_hu"], kernel_lp_cm=ranges["kernel_lp_cm"],
                   pixel_spacing_mm=ranges["pixel_spacing_mm"])

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Domain":
        """The inverse of `as_json`.

        Raises:
          InputError: it is something else.
        """
        try:
            fields: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each
                                      for name, each in value.items()}
            found = cls(**fields)
            for name in (*ScanProperties._fields, "size"):
                limits = getattr(found, name)
                if limits is None and name in ("noise_hu", "kernel_lp_cm"):
                    continue
                lowest, highest = limits
                if not 0 < lowest <= highest < np.inf:
                    raise ValueError(f"{name} is {limits}")
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"no training domain: {error}") from error
        return found

    def as_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    def leaves(self, scan: ScanProperties) -> list[str]:
        """In which ways a scan lies outside, as phrases for a reader; none of one inside.

        Less noise than in training is no reason: there is less to take away.
        """
        lines = []
        for name, unit in _UNITS.items():
            value, limits = getattr(scan, name), getattr(self, name)
            if value is None or limits is None:
                continue
            lowest, highest = limits
            too_low = value < lowest / MARGIN and name != "noise_hu"
            if too_low or value > highest * MARGIN:
                lines.append(f"{unit.format(f'{value:.3g}')} {'below' if too_low else 'above'} the "
                             f"{lowest:.3g} to {highest:.3g} that the model was trained on")
        return lines

    def __str__(self) -> str:
        """For a reader, in one line."""
        ranges = ", ".join(unit.format(f"{limits[0]:.3g} to {limits[1]:.3g}")
                           for name, unit in _UNITS.items() if (limits := getattr(self, name)))
        return f"{'simulated' if self.simulated else 'real'} low doses, {ranges}"


def typical(measured: Sequence[ScanProperties]) -> ScanProperties:
    """The median of each property, over the slices that show it; of at least one slice."""
    medians = {name: float(np.median(values)) if (values := _known(measured, name)) else None
               for name in ("noise_hu", "kernel_lp_cm")}
    return ScanProperties(**medians, pixel_spacing_mm=float(np.median(
        _known(measured, "pixel_spacing_mm"))))


def _known(measured: Iterable[ScanProperties], name: str) -> list[float]:
    return [value for each in measured if (value := getattr(each, name)) is not None]
