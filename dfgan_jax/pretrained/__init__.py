"""Weights that come with the package, by name.

`index.json` lists each file with its version, its SHA-256 and a sentence on its training data;
docs/weights.md is the card.
"""

import importlib.resources
import json
import os
import pathlib
from typing import Final, TypedDict

from dfgan_jax.support.digests import file_digest
from dfgan_jax.support.errors import InputError

DEFAULT: Final = "attn_dfgan"
"""Name of the weights without a given checkpoint."""


class Described(TypedDict):
    """An entry of `index.json`."""

    file: str
    version: str
    sha256: str
    about: str


def index() -> dict[str, Described]:
    """Name → entry of `index.json`."""
    entries: dict[str, Described] = json.loads(
        (_folder() / "index.json").read_text(encoding="utf-8"))
    return entries


def resolve(path: str | os.PathLike[str] | None) -> pathlib.Path:
    """The path of a checkpoint, or of the pretrained weights of that name.

    An existing file or folder comes before weights of the same name.

    Args:
      path: None: the pretrained weights of the default name, whatever else has it.

    Raises:
      InputError: the weights are not installed or differ from the published ones; or there is
        neither a path nor weights of that name.
    """
    described = _described(path)
    path = DEFAULT if path is None else path
    if described is None:
        if pathlib.Path(path).exists():
            return pathlib.Path(path)
        if os.sep in str(path):  # no name of weights has one
            raise InputError(f"{path}: no such file or folder")
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


def describe(path: str | os.PathLike[str] | None) -> str | None:
    """Version and training data of pretrained weights, in a line; None for another `path`."""
    described = _described(path)
    name = DEFAULT if path is None else path
    return (None if described is None else
            f"{name}, version {described['version']}: {described['about']}")


def name_of(path: str | os.PathLike[str]) -> str | None:
    """The name of the pretrained weights in a file; None of any other path."""
    path = pathlib.Path(path)
    return next((name for name, each in index().items() if path == _folder() / each["file"]), None)


def _described(path: str | os.PathLike[str] | None) -> Described | None:
    """The entry of a name; None for other names, and if a file or folder has the name."""
    if path is None:
        return index().get(DEFAULT)
    return None if pathlib.Path(path).exists() else index().get(str(path))


def _folder() -> pathlib.Path:
    return pathlib.Path(str(importlib.resources.files(__name__)))
