"""The pitch of square pixels."""


def square_pitch(spacing_mm: tuple[float, ...] | None) -> float | None:
    """The pixel pitch of square pixels; None for other pixels, and for an unknown spacing.

    Args:
      spacing_mm: between rows, between columns; None if unknown.
    """
    if spacing_mm is None or spacing_mm[0] <= 0:
        return None
    if abs(spacing_mm[0] - spacing_mm[1]) > 1e-3 * spacing_mm[0]:
        return None
    return spacing_mm[0]
