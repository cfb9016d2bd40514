import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.nafnet import (
    DepthwiseConv,
    NAFNet,
    NAFNetOptions,
    blocks_of,
    pixel_shuffle,
    simple_gate,
)
from dfgan_jax.support.errors import InputError

SMALL = {"width": 2, "blocks": "1,0,1,1,0"}


def test_parameter_count_is_that_of_its_layers():
    """By the paper's table of a block, with c channels: 7 c² of kernels, 18 c of the depthwise one,
    and 15 c of biases, norms and gains."""
    def block(c):
        pointwise = c * 2 * c + c * c + c * c + c * 2 * c + c * c
        biases = 2 * c + 2 * c + c + c + 2 * c + c
        return pointwise + 9 * 2 * c + biases + 4 * c + 2 * c

    widths = [32, 64, 128, 256, 512]
    blocks = sum(count * block(c) for counts in ([2, 2, 4, 8, 12], [2, 2, 2, 2])
                 for count, c in zip(counts, widths, strict=False))
    between = sum(4 * c * 2 * c + 2 * c + 2 * c * 4 * c for c in widths[:-1])
    ends = 9 * 32 + 32 + 9 * 32 + 1
    params = jax.eval_shape(lambda: initial_variables(NAFNet(), jax.random.key(0)))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == blocks + between + ends == 29_158_561


def test_an_untrained_block_changes_nothing():
    """Its gains are 0: only the convolutions between the stages have weights that matter."""
    network = NAFNet(**SMALL)
    variables = run_once(lambda: initial_variables(network, jax.random.key(0)))
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype(np.float32)
    apply = jax.jit(functools.partial(network.apply, train=False))
    changed = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1.0 if "conv" in jax.tree_util.keystr(path) else x, variables)
    np.testing.assert_array_equal(apply(changed, image), apply(variables, image))
    assert np.abs(apply(variables, image) - image).max() > 0.01


def test_the_depthwise_convolution_is_scipys():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 7, 3))
    kernel, bias = rng.normal(size=(3, 3, 1, 3)), rng.normal(size=3)
    found = DepthwiseConv().apply({"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(x))
    expected = np.stack([correlate(x[0, :, :, c], kernel[:, :, 0, c], mode="same") + bias[c]
                         for c in range(3)], axis=-1)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_gate_and_shuffle_by_hand():
    assert simple_gate(jnp.array([1., 2., 3., 5.])).tolist() == [3, 10]
    shuffled = pixel_shuffle(jnp.arange(8.).reshape(1, 1, 1, 8))
    assert shuffled[0, :, :, 0].tolist() == [[0, 1], [2, 3]]
    assert shuffled[0, :, :, 1].tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("shape", [(1, 16, 16, 2), (1, 16, 18, 1), (16, 16, 1)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"expected \(N, H, W, 1\) with H and W multiples of 4"):
        NAFNet(**SMALL).init(jax.random.key(0), jnp.zeros(shape), train=False)


@pytest.mark.parametrize("blocks", ["", "1", "1,2", "1,2,3,4", "1,-1,1", "1,x,1", "1,31,1"])
def test_other_numbers_of_blocks_are_refused(blocks):
    with pytest.raises(InputError, match=f"blocks is '{blocks}'; expected an odd number of counts"):
        NAFNetOptions(blocks=blocks)


def test_blocks_are_of_encoder_middle_and_decoder():
    assert blocks_of(NAFNetOptions(blocks="1,2,0,3,4")) == ((1, 2), 0, (3, 4))


def test_the_layers_are_of_the_dtype_and_the_result_is_float32():
    network = NAFNet(**SMALL, dtype="bfloat16")
    variables = jax.eval_shape(lambda: initial_variables(network, jax.random.key(0)))
    denoised, layers = jax.eval_shape(lambda variables: network.apply(
        variables, jnp.ones((1, 32, 32, 1)), train=True, capture_intermediates=True,
        mutable=["intermediates"]), variables)
    assert denoised.dtype == jnp.float32
    found = {leaf.dtype for name, layer in layers["intermediates"].items() if name != "__call__"
             for leaf in jax.tree.leaves(layer)}
    assert found == {jnp.dtype("bfloat16")}
