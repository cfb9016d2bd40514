"""The name of a model in tables and files."""

import ml_collections

from dfgan_jax.models.generators import table_name
from dfgan_jax.support.types import JsonObject


def model_name(config: ml_collections.ConfigDict | JsonObject) -> str:
    """The name of a table's row.

    Args:
      config: of a run, or only its `generator` and `discriminators`, which may be None.
    """
    return table_name(dict(config["generator"]), config["discriminators"])
