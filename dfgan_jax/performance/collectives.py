"""The collectives of a compiled program: their kind, number, size and content.

They are read from XLA's text of the program, whose instructions look like

  %all-reduce.7 = (f32[32]{0}, f32[32]{0}) all-reduce(%a, %b), …, metadata={op_name="…"}
"""

import collections
import dataclasses
import math
import re

_OPS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
        "collective-permute", "collective-broadcast")

# An asynchronous collective is recognised by its end, which has the final result. Fused
# collectives, and collectives in a loop, are in computations of their own.
_INSTRUCTION = re.compile(rf" = (.*?) ({'|'.join(_OPS)})(?:-done)?\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')
_NORM = re.compile(r"\bnorm\d*\b")

GRADIENTS = "gradients"


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one program with the same operation and content.

    Attributes:
      op: XLA's name, such as `all-reduce`.
      what: their content, judged by name and shapes: `gradients`, `gradients and metrics`,
        `metrics`, `BatchNorm, forward`, `BatchNorm, backward`.
      count: instructions; an instruction in a loop counts once.
      bytes: total size of their results on one device.
    """

    op: str
    what: str
    count: int
    bytes: int


def of_program(hlo: str) -> list[Collective]:
    """The collectives of a compiled program, largest first.

    Args:
      hlo: text of the program: `compiled.as_text()`.
    """
    counts: dict[tuple[str, str], int] = collections.Counter()
    sizes: dict[tuple[str, str], int] = collections.Counter()
    for line in hlo.splitlines():
        found = _INSTRUCTION.search(line)
        if found:
            arrays = _ARRAY.findall(found[1])
            name = _NAME.search(line)
            key = found[2], _what(name[1] if name else "", [dims for _, _, dims in arrays])
            counts[key] += 1
            sizes[key] += sum(map(_size, arrays))
    return sorted((Collective(*key, counts[key], sizes[key]) for key in counts),
                  key=lambda each: -each.bytes)


def _what(name: str, dims: list[str]) -> str:
    """The content, by shapes and by JAX's name."""
    # Merged collectives have the name of any of their parts; statistics are vectors.
    if _NORM.search(name) and not any("," in each for each in dims):
        return f"BatchNorm, {'backward' if 'transpose(' in name else 'forward'}"
    if not any(dims):
        return "metrics"
    return GRADIENTS if all(dims) else f"{GRADIENTS} and metrics"


def _size(array: tuple[str, str, str]) -> int:
    """Bytes of an array such as `f32[3,4]`; 0 without numbers, as for `token[]`."""
    kind, bits, dims = array
    element = int(bits) / 8 if bits else float(kind == "pred")
    return math.ceil(element * math.prod(int(size) for size in dims.split(",") if size))
