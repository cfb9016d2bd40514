import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.models.unet import UNet
from dfgan_jax.porting import torch_layout
from tests.reference import load


def shapes(layout):
    return {key: entry.shape for key, entry in layout.items()}


@pytest.mark.parametrize("attention", [False, True])
def test_generator_layout_is_the_published_one_in_order(attention):
    published = load.state_dict_shapes("attn_unet" if attention else "unet")
    ours = shapes(torch_layout.generator_layout(attention=attention))
    assert list(ours.items()) == list(published.items())


def test_discriminator_layout_is_the_published_one_in_order():
    assert list(shapes(torch_layout.discriminator_layout()).items()) == list(
        load.state_dict_shapes("discriminator").items())


def flax_shapes(layout):
    """Path → shape that the layout gives to zeros of PyTorch's shapes."""
    variables = torch_layout.from_state_dict(
        {key: np.zeros(entry.shape) for key, entry in layout.items()}, layout)
    return jax.tree.map(np.shape, {name: variables[name] for name in ("params", "batch_stats")
                                   if name in variables})


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("width", [2, 16])
def test_generators_of_any_width_have_the_shapes_of_flax(attention, width):
    variables = jax.eval_shape(lambda: UNet(width=width, attention=attention).init(
        jax.random.key(0), jnp.zeros((1, 16, 16, 1)), train=False))
    layout = torch_layout.generator_layout(attention=attention, width=width)
    assert flax_shapes(layout) == jax.tree.map(jnp.shape, variables)


def test_red_cnns_of_any_width_have_the_shapes_of_flax():
    for width in (2, 96):
        variables = jax.eval_shape(lambda w=width: REDCNN(width=w).init(
            jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=False))
        layout = torch_layout.redcnn_layout(width=width)
        assert flax_shapes(layout) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("channels", [1, 2])
def test_discriminators_of_any_width_have_the_shapes_of_flax(channels):
    variables = jax.eval_shape(lambda: PatchDiscriminator(width=4).init(
        jax.random.key(0), jnp.zeros((1, 32, 32, channels))))
    layout = torch_layout.discriminator_layout(channels=channels, width=4)
    assert flax_shapes(layout) == jax.tree.map(jnp.shape, variables)


def test_round_trip_is_the_identity():
    layout = torch_layout.generator_layout(attention=True)
    state_dict = load.state_dict("attn_unet")
    back = torch_layout.to_state_dict(torch_layout.from_state_dict(state_dict, layout), layout)
    assert list(back) == list(state_dict)
    for key in layout:
        np.testing.assert_array_equal(back[key], state_dict[key])


def test_collections_that_are_not_given_are_left_out():
    layout = torch_layout.generator_layout(attention=False, width=2)
    variables = torch_layout.from_state_dict(
        {key: np.zeros(entry.shape) for key, entry in layout.items()}, layout)
    back = torch_layout.to_state_dict({"params": variables["params"]}, layout)
    assert back.keys() == {key for key in layout
                           if not key.split(".")[-1].startswith(("running", "num_batches"))}


def test_a_missing_key_is_an_error():
    state_dict = load.state_dict("discriminator")
    del state_dict["conv1.0.bias"]
    with pytest.raises(KeyError, match=r"conv1\.0\.bias"):
        torch_layout.from_state_dict(state_dict, torch_layout.discriminator_layout())
