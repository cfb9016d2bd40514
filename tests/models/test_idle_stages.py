import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.models.idle_stages import idle_stages
from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.models.unet import UNet
from tests.models.drawn import drawn

QDCT = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (1, 32, 32, 1)), jnp.float32)


def variables(generator):
    return drawn(jax.eval_shape(lambda: generator.init(jax.random.key(0), QDCT, train=False)))


@pytest.mark.parametrize("attention", [False, True])
def test_every_stage_of_random_weights_takes_part(attention):
    generator = UNet(width=4, normalization="none", attention=attention)
    assert idle_stages(generator, variables(generator), QDCT) == []


def test_a_stage_whose_features_are_off_idles_with_all_below_it():
    """What down3 and down4 compute reaches the result through up1 alone."""
    generator = UNet(width=2, normalization="none", add_image=False)
    weights = variables(generator)
    weights["params"]["up1"]["conv2"]["bias"] -= 1e6
    assert idle_stages(generator, weights, QDCT) == ["down3", "down4", "up1"]


def test_other_networks_have_no_stages():
    generator = REDCNN(width=2)
    assert idle_stages(generator, variables(generator), QDCT) == []
