"""Types that several rooms name."""

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""An object of a JSON file: what its values are is known only from the keys."""
