"""Paths of a flag that takes several, separated by commas, and patterns such as `LDCT/*/*Full*`."""

import glob
import os
import pathlib
from collections.abc import Sequence

from dfgan_jax.cli.given_paths import one_or_several
from dfgan_jax.support.errors import InputError


def paths_of(flag: str, texts: Sequence[str]) -> list[list[pathlib.Path]]:
    """The paths that the texts of a flag name: those of each entry between commas, each once.

    Args:
      flag: its name, for messages.
      texts: of the flag, given once or more. What exists is a path, also with a comma or a
        character of patterns; a pattern stands for all files and folders that match it, sorted.

    Raises:
      InputError: an entry between commas is empty, or nothing matches a pattern.
    """
    found: list[list[str]] = []
    seen: set[str] = set()
    for text in texts:
        for entry in one_or_several(text.split(",")):
            if not entry.strip():
                raise InputError(f"--{flag}: {text!r} has an empty entry; expected paths between "
                                 "the commas")
            if os.path.exists(entry) or not glob.has_magic(entry):
                matches = [entry]
            else:
                matches = sorted(glob.glob(entry, recursive=True))
            if not matches:
                raise InputError(f"--{flag}: nothing matches the pattern {entry!r}; expected one "
                                 "such as 'LDCT/**/*Full Dose*', in quotes")
            found.append([match for match in matches if match not in seen])
            seen |= set(matches)
    return [list(map(pathlib.Path, matches)) for matches in found if matches]
