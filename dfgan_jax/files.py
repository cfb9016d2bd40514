"""Writing files that are never half there and never lost."""

import contextlib
import pathlib
import secrets
from collections.abc import Iterator

from dfgan_jax.errors import InputError


def refuse_existing(path: pathlib.Path) -> None:
    """Refuses an output that would replace something.

    Raises:
      InputError: the path exists.
    """
    if path.exists():
        raise InputError(f"{path}: exists; choose another --output, or remove it")


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which becomes `path` when all went well.

    Its folder is made. What stood at `path` is replaced; after an error it stays. Of
    several writers at once, the last one's file stays, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process ids repeat between the machines and containers that share a folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
