import jax
import numpy as np
import pytest

from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.unet import UNet
from dfgan_jax.porting.weights import Weights
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.state import widens, with_weights
from tests.training.kept import counted


def zeros(*, width=4, **options):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(
        lambda: initial_variables(UNet(width=width, **options), jax.random.key(0))))


def saved(**options):
    return Weights(discriminators={}, generator={**zeros(**options), "batches_tracked": {}})


@pytest.mark.parametrize(("there", "differing"), [
    ({"normalization": "none"}, r"batch_stats/down1/norm1/mean: absent there, \(8,\) in the conf"),
    ({"add_image": False}, r"params/size_down2/bias: absent there, \(1,\) in the configuration; "
                           r"expected the same .* normalization and add_image")])
def test_weights_of_another_network_are_told_by_their_first_array(there, differing):
    state = counted(0)
    state.generator.update(zeros())
    with pytest.raises(InputError, match=r"its generator \(unet, width 4, no attention\) is not "
                                         f"that of the configuration: .* {differing}"):
        with_weights(state, saved(**there))


def test_a_narrower_network_is_widened():
    state = counted(0)
    state.generator.update(jax.tree.map(np.ones_like, zeros()))
    assert widens(state, saved(width=2))
    kernel = with_weights(state, saved(width=2)).generator["params"]["inc"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 4, 4)
    assert not np.asarray(kernel[..., :2]).any()
    assert np.asarray(kernel[..., 2:] != 0).all()


@pytest.mark.parametrize(("there", "first"), [
    ({"width": 8}, r"\(16,\) there, \(8,\) in .* width \(or a greater one without attention\)"),
    ({"width": 2, "attention": True}, "171 differing arrays"),
    ({"width": 2, "normalization": "none"}, "absent there")])
def test_wider_networks_and_those_of_another_layout_are_not_widened(there, first):
    state = counted(0)
    state.generator.update(zeros())
    assert not widens(state, saved(**there))
    with pytest.raises(InputError, match=first):
        with_weights(state, saved(**there))
