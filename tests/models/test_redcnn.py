import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.signal import convolve, correlate

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks, Optimizers, create_state
from dfgan_jax.training.steps import batch_statistics_step, train_step

WIDTH = 3


@pytest.fixture(scope="module")
def variables():
    """Weights and biases that let much through."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initial_variables(REDCNN(width=WIDTH), jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.15, leaf.shape).astype(np.float32), shapes)


def random_hu(shape=(2, 24, 29, 1)):
    return np.random.default_rng(1).uniform(-1000, 2000, shape)


def denoise(variables, hu, **options):
    normalised = jnp.asarray((hu + 500) / 500, jnp.float32)
    network = REDCNN(width=WIDTH, **options)
    denoised = run_once(functools.partial(network.apply, train=False), variables, normalised)
    return np.asarray(denoised, np.float64) * 500 - 500


def layer(operator, x, params):
    """One layer of an image (H, W, C) by SciPy: the sum over channels of plane by plane."""
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    channels, features = kernel.shape[2:]
    mode = "valid" if operator is correlate else "full"
    return np.stack([bias[f] + sum(operator(x[..., c], kernel[..., c, f], mode=mode)
                                   for c in range(channels)) for f in range(features)], axis=-1)


def by_scipy(params, hu):
    """The paper's network: a transposed convolution without padding is a full convolution."""
    def conv(i, x):
        return np.maximum(layer(correlate, x, params[f"conv{i}"]), 0)

    def tconv(i, x):
        return layer(convolve, x, params[f"tconv{i}"])

    image = (hu + 1024) / 4096
    second = conv(2, conv(1, image))
    fourth = conv(4, conv(3, second))
    x = np.maximum(tconv(1, conv(5, fourth)) + fourth, 0)
    x = np.maximum(tconv(2, x), 0)
    x = np.maximum(tconv(3, x) + second, 0)
    x = np.maximum(tconv(4, x), 0)
    return np.maximum(tconv(5, x) + image, 0) * 4096 - 1024


def test_parameter_count_is_the_published_one():
    params = jax.eval_shape(lambda: initial_variables(REDCNN(), jax.random.key(0)))["params"]
    inner = 96 * 96 * 25 + 96
    expected = (96 * 25 + 96) + 4 * inner + 4 * inner + (96 * 25 + 1)
    assert sum(x.size for x in jax.tree.leaves(params)) == expected == 1_848_865


def test_agrees_with_scipy(variables):
    hu = random_hu()
    expected = np.stack([by_scipy(variables["params"], each) for each in hu])
    assert 0.01 < np.mean(expected == -1024) < 0.5  # the last ReLU has something to do
    assert np.abs(expected - hu).max() > 100
    np.testing.assert_allclose(denoise(variables, hu), expected, atol=0.02)


def test_without_kernels_the_image_comes_back_down_to_the_lowest_hu(variables):
    """The last ReLU gives nothing below the −1024 HU that are 0 in the network's own range."""
    hu = random_hu()
    hu[0, 3, 4], hu[0, 5, 6], hu[1, 7, 8] = -1025, -1900, 5000
    nothing = jax.tree.map(np.zeros_like, variables)
    np.testing.assert_allclose(denoise(nothing, hu), np.maximum(hu, -1024), atol=1e-3)


def test_kernels_start_as_in_the_paper_at_its_width_and_let_as_much_through_at_others():
    params = run_once(lambda: initial_variables(REDCNN(width=12), jax.random.key(0)))["params"]
    # The variance of a sum over the channels is that of one, times their number.
    kernels = np.concatenate([np.ravel(each["kernel"]) for each in params.values()])
    assert len(kernels) == 25 * (8 * 12 * 12 + 2 * 12)
    assert np.var(kernels) * 12 == pytest.approx(96 * 0.01**2, rel=0.05)
    assert not any(each["bias"].any() for each in params.values())


@pytest.mark.parametrize("shape", [(1, 20, 32, 1), (1, 32, 20, 1), (1, 32, 32, 2), (32, 32, 1)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="with H and W of at least 21"):
        REDCNN(width=2).init(jax.random.key(0), jnp.zeros(shape), train=False)


def test_the_smallest_image_leaves_a_pixel(variables):
    hu = random_hu((1, 21, 21, 1))
    np.testing.assert_allclose(denoise(variables, hu)[0], by_scipy(variables["params"], hu[0]),
                               atol=0.02)


def test_bfloat16_convolves_in_bfloat16_and_keeps_the_image_in_float32(variables):
    """In bfloat16, the image's own steps would be up to 16 HU."""
    network = REDCNN(width=WIDTH, dtype="bfloat16")
    _, layers = jax.eval_shape(lambda: network.apply(
        variables, jnp.ones((1, 32, 32, 1)), train=True, capture_intermediates=True,
        mutable=["intermediates"]))
    outputs = {name: each["__call__"][0].dtype for name, each in layers["intermediates"].items()
               if name != "__call__"}
    assert set(outputs.values()) == {jnp.dtype("bfloat16")}
    assert len(outputs) == 10
    hu = random_hu()
    nothing = jax.tree.map(np.zeros_like, variables)
    np.testing.assert_allclose(denoise(nothing, hu, dtype="bfloat16"), hu, atol=1e-3)


NETWORKS = Networks(REDCNN(width=4), PatchDiscriminator(width=2), "none")


def train(*, count, **options):
    """The state after steps on one batch, and the loss of each."""
    optimizers = Optimizers(optax.adam(3e-3), optax.adam(3e-3))

    def step(state, _):
        return train_step(state, batch(), networks=NETWORKS, optimizers=optimizers,
                          loss=LossOptions(), **options)

    def run(key):
        return jax.lax.scan(step, create_state(key, NETWORKS, optimizers), length=count)

    state, metrics = run_once(run, jax.random.key(0))
    return state, np.asarray(metrics["generator_loss"])


def batch():
    rng = np.random.default_rng(0)
    ndct = jnp.array(np.kron(rng.uniform(-1, 3, (4, 3, 3, 1)), np.ones((1, 8, 8, 1))), jnp.float32)
    return {"ndct": ndct, "qdct": ndct + jnp.array(rng.normal(0, 0.3, ndct.shape), jnp.float32)}


def test_training_without_discriminators_lowers_the_loss():
    state, losses = train(count=60)
    assert losses[-1] < 0.75 * losses[0]
    assert state.generator["batch_stats"] == {}
    after, metrics = run_once(functools.partial(
        batch_statistics_step, networks=NETWORKS, loss=LossOptions()), state, batch())
    jax.tree.map(np.testing.assert_array_equal, after.generator, state.generator)
    assert metrics["generator_loss"] < losses[0]


def test_parts_of_a_batch_and_remat_change_no_number():
    """Nothing is normalised, so a batch in parts gives the same step."""
    expected, losses = train(count=1)
    actual, their_losses = train(count=1, accumulate=2, remat=True)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
                 actual.generator, expected.generator)
    np.testing.assert_allclose(their_losses, losses, rtol=1e-5)
