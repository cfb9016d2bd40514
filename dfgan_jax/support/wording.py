"""Parts of messages: numbers with their noun, and the nearest name to a mistyped one."""

import difflib
from collections.abc import Iterable, Mapping


def counted(count: int, noun: str) -> str:
    """`1 slice`, `2 slices`.

    Args:
      noun: in the singular; the plural has a further s.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def nearest(name: str, names: Iterable[str]) -> str:
    """` (did you mean 'size'?)`, with a blank before it; empty if no name is near."""
    return meant(name, {each: repr(each) for each in names})


def meant(name: str, shown: Mapping[str, str]) -> str:
    """The same for names that are shown in another form.

    Args:
      name: mistyped.
      shown: name → its form in the message.
    """
    close = difflib.get_close_matches(name, list(shown), n=1, cutoff=0.7)
    return f" (did you mean {shown[close[0]]}?)" if close else ""
