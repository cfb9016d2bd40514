"""The training domain of a model: ranges of noise, kernel and pixel pitch of its training scans."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dfgan_jax.simulation.noise_estimation import measure_noise
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.types import JsonObject
from dfgan_jax.support.wording import printable

PERCENTILES: Final = (5.0, 95.0)
"""Lowest and highest percentile of the training slices in a range."""

MARGIN: Final = 1.15
"""Tolerated factor beyond a range: the estimates have errors of 10 to 15 %."""


class ScanProperties(NamedTuple):
    """Properties of a scan, measured in a slice.

    Attributes:
      noise_hu: standard deviation of the noise [HU] in the most uniform soft tissue; None if
        the slice has too little soft tissue, or too coarse pixels.
      kernel_lp_cm: f50 of the reconstruction kernel [lp/cm]; None as for `noise_hu`.
      pixel_spacing_mm: pixel pitch [mm].
    """

    noise_hu: float | None
    kernel_lp_cm: float | None
    pixel_spacing_mm: float


_UNITS: Final = {"noise_hu": "noise of {} HU", "kernel_lp_cm": "kernel with an f50 of {} lp/cm",
                 "pixel_spacing_mm": "pixels of {} mm"}


def measure(hu: Float[np.ndarray, "h w"], *, pixel_spacing_mm: float,
            outside: Bool[np.ndarray, "h w"] | None = None) -> ScanProperties:
    """Noise and kernel of a slice, by `noise_estimation.measure_noise`.

    Args:
      hu: (H, W) float32.
      pixel_spacing_mm: pixel pitch, of square pixels.
      outside: (H, W) bool, the pixels outside the field of view.
    """
    try:
        noise = measure_noise(hu, pixel_spacing_mm=pixel_spacing_mm, outside=outside)
    except InputError:
        return ScanProperties(None, None, pixel_spacing_mm)
    return ScanProperties(noise.noise_std_hu, noise.kernel, pixel_spacing_mm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """Ranges (lowest, highest) of the low-dose slices that a model was trained on.

    Attributes:
      noise_hu: see `ScanProperties`; None if it could be measured in no slice.
      kernel_lp_cm: likewise.
      pixel_spacing_mm: pixel pitch.
      size: height and width of the slices, the smallest and the largest [pixels].
      simulated: whether this package simulated the low dose; otherwise it came with the pairs.
      slices: number of measured slices.
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
        """The domain of one or more measured slices, with all their heights and widths."""
        sizes = list(sizes)
        noise_hu, kernel_lp_cm = (_known(measured, name) for name in ("noise_hu", "kernel_lp_cm"))
        return cls(size=(min(sizes), max(sizes)), simulated=simulated, slices=len(measured),
                   noise_hu=_range(noise_hu) if noise_hu else None,
                   kernel_lp_cm=_range(kernel_lp_cm) if kernel_lp_cm else None,
                   pixel_spacing_mm=_range([each.pixel_spacing_mm for each in measured]))

    @classmethod
    def from_json(cls, value: object) -> "Domain":
        """The inverse of `as_json`.

        Raises:
          InputError: the value is no result of `as_json`.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(value, dict) or value.keys() != set(names):
            raise InputError(f"no training domain: {printable(value)}; expected a JSON object of "
                             f"{', '.join(names)}")
        for name in (*ScanProperties._fields, "size"):
            limits = value[name]
            if limits is None and name in ("noise_hu", "kernel_lp_cm"):
                continue
            if not (isinstance(limits, list) and len(limits) == 2
                    and all(type(each) in (int, float) for each in limits)
                    and 0 < limits[0] <= limits[1] < np.inf):
                raise InputError(f"no training domain: {name} is {printable(limits)}; expected two "
                                 "numbers above 0, the lower one first")
        fields: JsonObject = {name: tuple(each) if isinstance(each, list) else each
                              for name, each in value.items()}
        return cls(**fields)

    def as_json(self) -> JsonObject:
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    def leaves(self, scan: ScanProperties) -> list[str]:
        """The properties of a scan outside the domain, as phrases for a reader.

        Less noise than in training is inside: there is less to remove.
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
        """A line for a reader."""
        ranges = ", ".join(unit.format(f"{limits[0]:.3g} to {limits[1]:.3g}")
                           for name, unit in _UNITS.items() if (limits := getattr(self, name)))
        return f"{'simulated low doses' if self.simulated else 'low doses as given'}, {ranges}"


def typical(measured: Sequence[ScanProperties]) -> ScanProperties:
    """The median of each property over one or more slices, without those that lack it."""
    medians = {name: float(np.median(values)) if (values := _known(measured, name)) else None
               for name in ("noise_hu", "kernel_lp_cm")}
    return ScanProperties(**medians, pixel_spacing_mm=float(np.median(
        _known(measured, "pixel_spacing_mm"))))


def _range(values: Sequence[float]) -> tuple[float, float]:
    lowest, highest = (float(f"{value:.4g}") for value in np.percentile(values, PERCENTILES))
    return lowest, highest


def _known(measured: Iterable[ScanProperties], name: str) -> list[float]:
    return [value for each in measured if (value := getattr(each, name)) is not None]
