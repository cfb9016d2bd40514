"""Weights that come with the package, by name.

`index.json` names each file, its version, its SHA-256 and, in a sentence, what it was trained on;
docs/weights.md is the card.
"""

import importlib.resources
import json
import os
import pathlib
from typing import Any, Final

from dfgan_jax.support.digests import file_digest
from dfgan_jax.support.errors import InputError

DEFAULT: Final = "attn_dfgan"
"""Taken where no checkpoint is named."""


def index() -> dict[str, dict[str, Any]]:
    """Name → `file`, `version`, `sha256` and `about`."""
    return json.loads((_folder() / "index.json").read_text(encoding="utf-8"))


def resolve(path: str | os.PathLike) -> pathlib.Path:
    """The path of a checkpoint, or of the pretrained weights of that name.

    A file or folder of a name in the index comes before the weights.

    Raises:
      InputError: the weights are not installed or not as they were published; or there is nothing
        of that name, which is no path either.
    """
    described = _described(path)
    if described is None:
        if pathlib.Path(path).exists() or os.sep in str(path):
            return pathlib.Path(path)
        raise InputError(f"{path}: no such file or folder, nor pretrained weights: there are "
                         f"{', '.join(index()) or 'none in this version'}")
    file = _folder() / described["file"]
    if not file.is_file():
        raise InputError(f"{path}: {file} is not installed; wheel and repository of version "
                         f"{described['version']} have it (docs/weights.md)")
    if file_digest(file) != described["sha256"]:
        raise InputError(f"{path}: {file} is damaged: its SHA-256 is not that of version "
                         f"{described['version']} ({described['sha256']}); install the package "
                         "again")
    return file


def describe(path: str | os.PathLike) -> str | None:
    """What pretrained weights were trained on, in a line; None where `path` is no name of any."""
    described = _described(path)
    return (None if described is None else
            f"{path}, version {described['version']}: {described['about']}")


def name_of(path: str | os.PathLike) -> str | None:
    """The name of the pretrained weights in a file; None of any other path."""
    path = pathlib.Path(path)
    return next((name for name, each in index().items() if path == _folder() / each["file"]), None)


def _described(path: str | os.PathLike) -> dict[str, Any] | None:
    """The index's entry; None of other names, and where a file or folder has the name."""
    return None if pathlib.Path(path).exists() else index().get(str(path))


def _folder() -> pathlib.Path:
    return pathlib.Path(str(importlib.resources.files(__name__)))
