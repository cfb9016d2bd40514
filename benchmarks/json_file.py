"""The results of a benchmark, in a file that a program reads."""

import json
import pathlib

from dfgan_jax.support.files import written_whole


def write_json(path: str | None, results: object) -> None:
    """Writes results as JSON, whole or not at all; without a path it writes nothing."""
    if path:
        with written_whole(pathlib.Path(path)) as part:
            part.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n",
                            encoding="utf-8")
