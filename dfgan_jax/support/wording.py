"""Parts of messages: numbers with their noun, names near a mistyped one, and text of files."""

import difflib
import re
from collections.abc import Iterable, Mapping

_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")


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


def printable(text: object, *, limit: int = 300) -> str:
    """Text from a file, made safe for one line of a terminal, without addresses of objects."""
    line = _ADDRESS.sub("", " ".join(str(text).split()))
    line = line if len(line) <= limit else f"{line[:limit]}…"
    return "".join(c if c.isprintable() else "?" for c in line)
