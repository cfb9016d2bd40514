"""Names of the units that arrays of slices may have; `units` converts between them.

Apart from `units`, since the command line needs the names, and not JAX.
"""

import typing
from typing import Final, Literal, TypeAlias

Unit: TypeAlias = Literal["hu", "mu", "redcnn", "dfgan", "stored"]

UNITS: Final[tuple[Unit, ...]] = typing.get_args(Unit)

REDCNN: Final[Unit] = "redcnn"
