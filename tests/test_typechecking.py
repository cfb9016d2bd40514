import jax.numpy as jnp
import jaxtyping
import pytest

from dfgan_jax.models.nafnet import NAFNetOptions, pixel_shuffle
from dfgan_jax.scans.windows import Window
from dfgan_jax.support.errors import InputError
from tests import typechecking


def test_shapes_and_types_of_the_package_are_checked():
    pixel_shuffle(jnp.zeros((1, 2, 3, 4)))
    with pytest.raises(jaxtyping.TypeCheckError):
        pixel_shuffle(jnp.zeros((2, 3, 4)))
    with pytest.raises(jaxtyping.TypeCheckError):
        Window.centered("wide", width=400)


def test_options_check_themselves():
    with pytest.raises(InputError):
        NAFNetOptions(blocks=5)


def test_every_module_is_checked_but_the_readers_of_pickles():
    names = typechecking.modules()
    assert "dfgan_jax.training.steps" in names
    assert "dfgan_jax.support.safe_pickle" not in names
    assert len(names) > 100
