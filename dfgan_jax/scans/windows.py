"""CT windows: the ranges of HU that displays show and scores are clipped to."""

from typing import Final, NamedTuple

from dfgan_jax.scans.hounsfield import HIGHEST_12_BIT_HU, OUTSIDE_HU


class Window(NamedTuple):
    """A range of HU.

    Attributes:
      low: lowest HU; a display shows it and all below black.
      high: highest HU; a display shows it and all above white.
    """

    low: float
    high: float

    @classmethod
    def centered(cls, center: float, *, width: float) -> "Window":
        """The window of a centre and a width [HU], as scanners name it."""
        return cls(center - width / 2, center + width / 2)

    @property
    def center(self) -> float:
        """The middle [HU]."""
        return (self.low + self.high) / 2

    @property
    def width(self) -> float:
        """From the lowest to the highest HU."""
        return self.high - self.low


SOFT_TISSUE: Final = Window(-160.0, 240.0)
"""RED-CNN's (Chen et al., IEEE TMI 2017)."""

ABDOMEN: Final = Window.centered(50.0, width=400.0)
LUNG: Final = Window.centered(-600.0, width=1500.0)
BONE: Final = Window.centered(400.0, width=1800.0)
BRAIN: Final = Window.centered(40.0, width=80.0)

FULL_RANGE: Final = Window(OUTSIDE_HU, HIGHEST_12_BIT_HU)
"""All of 12-bit CT."""
