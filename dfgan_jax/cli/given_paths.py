"""Paths as users give them on the command line."""

import os
from collections.abc import Sequence

from dfgan_jax.support.errors import InputError


def expanded(text: str) -> str:
    """A path as the user means it, with its home for `~`, which shells expand only at the start.

    A path that exists as it is, or of a user without a home, stays.
    """
    return text if not text.startswith("~") or os.path.lexists(text) else os.path.expanduser(text)


def one_or_several(parts: Sequence[str]) -> list[str]:
    """The paths of a text that commas separate: one, if the whole is the path of a file or folder.

    Args:
      parts: of the text, between its commas.
    """
    whole = expanded(",".join(parts))
    return [whole] if len(parts) > 1 and os.path.exists(whole) else list(map(expanded, parts))


def refuse_url(text: str, *, name: str) -> None:
    """Refuses a URL, such as gs://bucket/run, which would become a path below the folder `gs:`.

    Args:
      text: one path or several.
      name: of the flag or field, for the message.

    Raises:
      InputError: it is a URL.
    """
    if "://" in text:
        raise InputError(f"{name} is {text!r}; expected a path in a mounted file system: a bucket "
                         "has to be mounted first, or its files copied")
