"""The pitch of square pixels."""


def square_pitch(spacing_mm: tuple[float, ...] | None) -> float | None:
    """The pixel pitch of square pixels; None for other pixels, and for an unknown spacing.

    Args:
      spacing_mm: between rows, between columns; None if unknown.
    """
    if spacing_mm is None:
        return None
    rows, columns = spacing_mm
    return rows if rows > 0 and abs(rows - columns) <= 1e-3 * rows else None
