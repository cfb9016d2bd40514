"""Types that several rooms name."""

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""An object of a JSON file; the key decides the type of a value."""
