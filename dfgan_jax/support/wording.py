"""Parts of messages: numbers with their noun, and the nearest name to a mistyped one."""

import difflib
from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """`1 slice`, `2 slices`.

    Args:
      noun: in the singular; the plural has a further s.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def nearest(name: str, names: Iterable[str]) -> str:
    """` (did you mean 'size'?)`, with a blank before it; empty if no name is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f" (did you mean {close[0]!r}?)" if close else ""
