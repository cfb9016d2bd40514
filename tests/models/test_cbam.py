import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.cbam import CBAM, ChannelGate, SpatialGate, pooled_maximum


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_channel_gate_is_the_papers_formula():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 32))
    module = ChannelGate(reduction=16)
    # With these, both the average and the maximum pass the ReLU.
    params = run_once(module.init, jax.random.key(5), x)["params"]
    assert params["hidden"]["kernel"].shape == (32, 2)

    def mlp(v):
        hidden = np.maximum(v @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
        return hidden @ params["out"]["kernel"] + params["out"]["bias"]

    pooled = np.asarray(x)
    scale = sigmoid(mlp(pooled.mean((1, 2))) + mlp(pooled.max((1, 2))))
    np.testing.assert_allclose(run_once(module.apply, {"params": params}, x),
                               pooled * scale[:, None, None], rtol=1e-4, atol=1e-5)


def test_spatial_gate_takes_maximum_first_and_mean_second():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    module = SpatialGate()
    variables = run_once(functools.partial(module.init, train=False), jax.random.key(1), x)
    # A kernel that passes only its first channel, at its centre.
    kernel = np.zeros((7, 7, 2, 1), np.float32)
    kernel[3, 3, 0] = 1
    variables["params"]["conv"]["kernel"] = jnp.array(kernel)
    scale = sigmoid(np.asarray(x).max(-1, keepdims=True) / np.sqrt(1 + 1e-5))
    gated = run_once(functools.partial(module.apply, train=False), variables, x)
    np.testing.assert_allclose(gated, x * scale, rtol=1e-5)


def test_spatial_statistics_move_by_one_percent():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    module = CBAM()
    variables = run_once(functools.partial(module.init, train=False), jax.random.key(1), x)
    _, updates = run_once(functools.partial(module.apply, train=True, mutable=["batch_stats"]),
                          variables, x)
    var = updates["batch_stats"]["spatial_gate"]["norm"]["var"]
    assert float(var[0]) >= 0.99


def test_narrow_stages_keep_one_hidden_feature():
    params = jax.eval_shape(ChannelGate(reduction=16).init, jax.random.key(0),
                            jnp.zeros((1, 2, 2, 4)))["params"]
    assert params["hidden"]["kernel"].shape == (4, 1)


@pytest.mark.parametrize(("size", "window"), [((8, 8), 4), ((8, 12), 4), ((7, 9), 4), ((3, 3), 4),
                                              ((6, 6), 0)])
def test_maxima_of_windows_are_averaged(size, window):
    x = -1 - np.random.default_rng(0).random((2, *size, 3), np.float32)  # below any padding of 0
    step = window or max(size)
    maxima = [x[:, i:i + step, j:j + step].max((1, 2))
              for i in range(0, size[0], step) for j in range(0, size[1], step)]
    np.testing.assert_allclose(pooled_maximum(jnp.array(x), window=window),
                               np.mean(maxima, axis=0), rtol=1e-6)


def test_the_mean_of_maxima_does_not_grow_with_the_image():
    noise = np.random.default_rng(0).normal(size=(1, 256, 256, 1)).astype(np.float32)
    crop = jnp.array(noise[:, :32, :32])
    whole, windows = (float(pooled_maximum(jnp.array(noise), window=window)[0, 0])
                      for window in (0, 32))
    assert whole > float(crop.max()) + 0.5
    assert windows == pytest.approx(float(crop.max()), abs=0.3)
