import jax
import numpy as np
import pytest

from configs import attn, dfgan
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError


def test_cosine_brings_the_learning_rate_to_nothing():
    config = attn.get_config("demo")
    optimizer = RunOptions.of(config).optimizer.build(total_steps=4).generator
    parameters = np.zeros(1, np.float32)
    state, sizes = optimizer.init(parameters), []
    for _ in range(5):
        updates, state = optimizer.update(np.ones(1, np.float32), state, parameters)
        sizes.append(abs(float(updates[0])))
    # Adam's update of a constant gradient is the learning rate itself.
    rate = config.optimizer.generator_learning_rate
    np.testing.assert_allclose(sizes, rate * (1 + np.cos(np.pi * np.arange(5) / 4)) / 2, atol=1e-7)


def updates(changes, *, gradients, params, total_steps=10):
    config = dfgan.get_config("slides")
    config.update_from_flattened_dict({f"optimizer.{k}": v for k, v in changes.items()})
    optimizer = RunOptions.of(config).optimizer.build(total_steps=total_steps).generator
    state, found = optimizer.init(params), []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, params)
        found.append(update)
    return np.array(found)


def test_the_generators_rate_warms_up_and_follows_a_cosine():
    """With one gradient for ever, Adam moves by its rate."""
    found = -updates({"warm_up_steps": 4, "schedule": "cosine", "generator_learning_rate": 0.1},
                     gradients=[np.float32(1)] * 10, params=np.float32(0))
    np.testing.assert_allclose(found[:5], 0.1 * np.array([0, 0.25, 0.5, 0.75, 1]), atol=1e-6)
    cosine = 0.1 * (1 + np.cos(np.pi * np.arange(6) / 6)) / 2
    np.testing.assert_allclose(found[4:], cosine, atol=1e-6)
    constant = -updates({"warm_up_steps": 2, "generator_learning_rate": 0.1},
                        gradients=[np.float32(1)] * 10, params=np.float32(0))
    np.testing.assert_allclose(constant[2:], 0.1, atol=1e-6)


def test_weight_decay_and_clipping_by_hand():
    decayed = updates({"weight_decay": 0.5, "generator_learning_rate": 0.1},
                      gradients=[np.float32(1)], params=np.float32(4))
    np.testing.assert_allclose(decayed, -0.1 * (1 + 0.5 * 4), rtol=1e-5)
    # Adam's second moment sees the clipped gradient: the ratio of its steps shows the norm.
    gradients = [np.float32([3, 4]), np.float32([0.3, 0.4])]
    plain, clipped = (updates({"clip_norm": norm, "b1": 0.0, "b2": 0.5}, gradients=gradients,
                              params=np.zeros(2, np.float32)) for norm in (0.0, 0.5))
    # b1 is 0: g / sqrt(v), with v of two steps (0.5 · 0.5 g₁² + 0.5 g₂²) / 0.75.
    for found, first in ((plain, 3.0), (clipped, 0.3)):
        second = 0.3 / np.sqrt((0.25 * first**2 + 0.5 * 0.3**2) / 0.75)
        assert found[1, 0] / found[0, 0] == pytest.approx(second, rel=1e-4)


def test_muon_moves_kernels_between_features_by_orthonormal_matrices():
    """Against NumPy's singular value decomposition G = U S Vᵀ.

    The first update is −3 · rate · √max(1, outputs / inputs) · U Vᵀ, as far as five steps of
    Newton-Schulz bring it; NAdam's is the rate times b1 (1 − b1) / (1 − b1²) + 1.
    """
    draws = np.random.default_rng(0)
    shapes = {"between": (3, 3, 8, 16), "transposed": (16, 2, 2, 8), "first": (3, 3, 1, 16),
              "last": (1, 1, 16, 1), "dense": (8, 8), "bias": (16,)}
    gradients = {name: draws.normal(size=shape).astype(np.float32)
                 for name, shape in shapes.items()}
    updates = muon_updates(gradients, gradients)

    for name, inputs, outputs in (("between", 72, 16), ("transposed", 16, 32)):
        left, _, right = np.linalg.svd(gradients[name].reshape(inputs, outputs),
                                       full_matrices=False)
        found = -np.asarray(updates[name]).reshape(inputs, outputs) / (
            0.1 * 3 * np.sqrt(max(1, outputs / inputs)))
        sizes = np.linalg.svd(found, compute_uv=False)
        assert 0.6 < sizes.min() <= sizes.max() < 1.3
        cosine = np.sum(found * (left @ right)) / np.linalg.norm(found) / 4
        assert cosine > 0.97
    for name in ("first", "last", "dense", "bias"):
        np.testing.assert_allclose(updates[name], -0.1 * (0.9 * 0.1 / 0.19 + 1)
                                   * np.sign(gradients[name]), rtol=1e-3)


def test_muon_decays_its_kernels_alone():
    weights = {"between": np.ones((3, 3, 8, 16), np.float32), "bias": np.ones(16, np.float32)}
    gradients = jax.tree.map(lambda x: 2 * x, weights)
    plain, decayed = (muon_updates(gradients, weights, weight_decay=decay) for decay in (0.0, 0.5))
    np.testing.assert_allclose(decayed["between"], plain["between"] - 3 * 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_array_equal(decayed["bias"], plain["bias"])


def muon_updates(gradients, weights, *, weight_decay=0.0):
    """The first updates at a rate of 0.1."""
    config = dfgan.get_config("slides")
    config.optimizer.algorithm, config.optimizer.generator_learning_rate = "muon", 0.1
    config.optimizer.weight_decay = weight_decay
    optimizer = RunOptions.of(config).optimizer.build(total_steps=10).generator
    return optimizer.update(gradients, optimizer.init(weights), weights)[0]


def test_an_unknown_algorithm_is_refused():
    config = dfgan.get_config("slides")
    config.optimizer.algorithm = "sgd"
    with pytest.raises(InputError, match=r"optimizer\.algorithm is 'sgd'; expected one of adam"):
        RunOptions.of(config)
