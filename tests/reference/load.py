"""Access to the reference numbers, in this project's layout."""

import functools
import json
import pathlib
from typing import Any

import numpy as np

from dfgan_jax.porting import torch_layout
from dfgan_jax.scans import hounsfield
from tests.reference.fill import image, tensor

SEED = 7
_FOLDER = pathlib.Path(__file__).parent


@functools.cache
def numbers(name: str) -> dict[str, np.ndarray]:
    with np.load(_FOLDER / f"{name}.npz") as file:
        return dict(file)


def metrics() -> dict[str, float]:
    return json.loads((_FOLDER / "metrics.json").read_text())


METRIC_CASES = {"batch16": (16, 1, 64, 64), "batch8": (8, 1, 64, 64), "single": (1, 1, 96, 96)}
"""Case of `metrics` → shape of its images, NCHW."""


def metric_images(case: str) -> tuple[np.ndarray, np.ndarray]:
    """The prediction and the target that a case of `metrics` scores, NCHW, HU."""
    target, noise = (image(f"metric_{name}_{case}", METRIC_CASES[case], SEED)
                     for name in ("target", "noise"))
    prediction = (target + 0.15 * (noise - 0.5)).astype(np.float32)
    return hounsfield.denormalise(prediction), hounsfield.denormalise(target)


def state_dict_shapes(name: str) -> dict[str, tuple[int, ...]]:
    shapes = json.loads((_FOLDER / "state_dict_layout.json").read_text())[name]
    return {key: tuple(shape) for key, shape in shapes.items()}


def state_dict(name: str) -> dict[str, np.ndarray]:
    return {key: tensor(key, shape, SEED) for key, shape in state_dict_shapes(name).items()}


def generator_variables(*, attention: bool) -> dict[str, Any]:
    variables = torch_layout.from_state_dict(state_dict("attn_unet" if attention else "unet"),
                                             torch_layout.generator_layout(attention=attention))
    del variables[torch_layout.COUNTS]
    return variables


def discriminator_variables() -> dict[str, Any]:
    return torch_layout.from_state_dict(state_dict("discriminator"),
                                        torch_layout.discriminator_layout())


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def images(name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The filled image of an NCHW shape, as NHWC."""
    return nhwc(image(name, shape, SEED))
