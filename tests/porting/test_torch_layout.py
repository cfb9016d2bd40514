import numpy as np
import pytest

from dfgan_jax.porting import torch_layout
from tests.reference import load


@pytest.mark.parametrize("attention", [False, True])
def test_generator_layout_has_the_published_keys_in_order(attention):
    published = load.state_dict_shapes("attn_unet" if attention else "unet")
    wanted = [key for key in published if not key.endswith("num_batches_tracked")]
    assert list(torch_layout.generator_layout(attention=attention)) == wanted


def test_discriminator_layout_has_the_published_keys_in_order():
    assert list(torch_layout.discriminator_layout()) == list(
        load.state_dict_shapes("discriminator"))


def test_round_trip_is_the_identity():
    layout = torch_layout.generator_layout(attention=True)
    state_dict = load.state_dict("attn_unet")
    back = torch_layout.to_state_dict(torch_layout.from_state_dict(state_dict, layout), layout)
    for key in layout:
        np.testing.assert_array_equal(back[key], state_dict[key])


def test_a_missing_key_is_an_error():
    state_dict = load.state_dict("discriminator")
    del state_dict["conv1.0.bias"]
    with pytest.raises(KeyError, match=r"conv1\.0\.bias"):
        torch_layout.from_state_dict(state_dict, torch_layout.discriminator_layout())
