"""Measures the training domain of a run, for its checkpoints."""

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Final

import numpy as np

from dfgan_jax.data import domain
from dfgan_jax.data.dataset import read_manifest
from dfgan_jax.data.domain import Domain
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import read_pairs
from dfgan_jax.data.sources import Sources
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.progress import progress
from dfgan_jax.support.spacing import evenly_spaced
from dfgan_jax.support.threads import call_ahead

SLICES: Final = 24
"""Number of measured slices, evenly spaced over all files; 0.3 s each at 512² on two cores."""


def measure(sources: Sources, pairs: Pairs) -> Domain | None:
    """Measures noise, kernel and pixel pitch of low-dose training slices.

    Args:
      sources: of the run's pairs.
      pairs: its training slices, in normalised HU.

    Returns:
      None if no pixel pitch is known (files without the manifest of `--mode=pair` or
      `--mode=simulate`).
    """
    known = list(_slices(sources, pairs))
    chosen = [known[index] for index in evenly_spaced(len(known), most=SLICES)]
    measured = []
    calls = (functools.partial(_measure, part, index, spacing)
             for part, index, spacing, _ in chosen)
    with (progress("measuring the training slices", total=len(chosen), unit="slices") as bar,
          contextlib.closing(call_ahead(calls)) as results):
        for result in results:
            bar.advance()
            measured.append(result())
    if not measured:
        return None
    return Domain.of(measured, sizes=[length for size in pairs.sizes for length in size],
                     simulated=all(simulated for *_, simulated in known))


def _measure(part: Pairs, index: int, pixel_spacing_mm: float) -> domain.ScanProperties:
    return domain.measure(hounsfield.denormalise(np.asarray(part.qdct[index])),
                          pixel_spacing_mm=pixel_spacing_mm)


def _slices(sources: Sources, pairs: Pairs
            ) -> Iterator[tuple[Pairs, int, float, bool]]:
    """Each slice of known pixel pitch: pairs of its file, index, pitch [mm], simulated or not."""
    files = sources.data.train
    if not files:
        spacing = sources.simulation.protocol.field_of_view_mm / pairs.sizes[0][1]
        yield from ((pairs, index, spacing, True) for index in range(len(pairs)))
    for part, name in zip(pairs.parts, files, strict=False):
        path = pathlib.Path(name)
        rows = read_manifest(path, len(part))
        if rows is None:
            continue
        native, (height, width) = read_pairs(path).ndct.shape, part.sizes[0]
        if native[1] * width != native[2] * height:
            continue  # the resize scales rows and columns differently
        scale = native[2] / width
        for index, row in enumerate(rows):
            # A manifest written by hand may lack the column.
            if row.get("pixel_spacing_mm"):
                yield (part, index, float(row["pixel_spacing_mm"]) * scale,
                       bool(row.get("dose_fraction")))
