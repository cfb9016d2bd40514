"""The options of an evaluation."""

import dataclasses

from dfgan_jax.evaluation.baselines import BASELINES
from dfgan_jax.evaluation.protocols import FULL_RANGE, PROTOCOLS, Protocol
from dfgan_jax.support.checks import check_not_negative
from dfgan_jax.support.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """The rows of the tables, and their measurements.

    Attributes:
      protocols: names of tables beside that of `full_range`; empty: all.
      baselines: classical denoisers in the tables; names in `BASELINES`.
      checkpoints: of further models in the tables; arguments of `Denoiser.load`.
      physics: whether to measure noise, transfer, detectability, HU by tissue and removed
        structure.
      pixel_spacing_mm: pixel pitch of the scored test slices [mm]; 0: that of their manifests.
        Simulated slices have their own.

    Raises:
      InputError: a name is unknown, or the pixel pitch is negative.
    """

    protocols: tuple[str, ...]
    baselines: tuple[str, ...]
    checkpoints: tuple[str, ...] = ()
    physics: bool
    pixel_spacing_mm: float

    def __post_init__(self) -> None:
        for name, chosen, known in (("protocols", self.protocols, PROTOCOLS),
                                    ("baselines", self.baselines, BASELINES)):
            wrong = [each for each in chosen if each not in known]
            if wrong:
                raise InputError(f"{name} has {wrong[0]!r}; expected some of "
                                 f"{', '.join(known)}, separated by commas")
        check_not_negative(self, "pixel_spacing_mm")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the evaluation needs."""
        return ("valid", "test") if self.baselines else ("test",)

    @property
    def tables(self) -> list[Protocol]:
        """The protocols of the tables, in order."""
        return [PROTOCOLS[name] for name in dict.fromkeys(
            [FULL_RANGE.name, *(self.protocols or PROTOCOLS)])]
