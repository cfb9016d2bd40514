import numpy as np
import pytest

from dfgan_jax.simulation.phantom import torso_phantom
from dfgan_jax.support.errors import InputError

LEVELS = [0.0, 0.18, 0.4, 0.6, 0.75, 0.97]


def _phantom(seed, **arguments):
    return torso_phantom(np.random.default_rng(seed), **({"size": 96} | arguments))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_and_surroundings(seed, level):
    hu = _phantom(seed, level=level)
    assert hu.shape == (96, 96)
    assert hu.dtype == np.float32
    assert hu.min() == -1000
    assert 500 < hu.max() < 3000
    assert (hu[:4] == -1000).all()  # air in front; the table is behind
    soft_tissue = np.mean((hu > -20) & (hu < 300))
    assert 0.1 < soft_tissue < 0.6
    centre = hu[28:68, 28:68]
    assert (centre > -20).any()


def _share(level, low, high):
    """Mean share of the middle of four slices that lies between two HU."""
    middles = [_phantom(seed, level=level)[24:64, 20:76] for seed in range(4)]
    return np.mean([(hu > low) & (hu < high) for hu in middles])


def test_level_runs_from_lungs_to_liver():
    assert _share(0.35, -950, -700) > 0.3
    assert _share(0.95, -950, -700) < 0.05
    assert _share(0.35, 20, 250) < 0.45
    assert _share(0.95, 20, 250) > 0.55


@pytest.mark.parametrize("seed", [3, 4])
def test_anatomy_is_the_same_at_every_size(seed):
    small, large = (_phantom(seed, size=size, level=0.4) for size in (64, 192))
    shrunk = large.reshape(64, 3, 64, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.994


def test_the_generator_decides():
    np.testing.assert_array_equal(_phantom(5), _phantom(5))
    assert np.abs(_phantom(5) - _phantom(6)).mean() > 20


@pytest.mark.parametrize(("arguments", "name"), [
    ({"size": 16}, "size"), ({"field_of_view_mm": 100.0}, "field_of_view_mm"),
    ({"field_of_view_mm": float("nan")}, "field_of_view_mm"), ({"level": 1.5}, "level"),
    ({"level": -0.1}, "level"),
])
def test_wrong_arguments_are_refused(arguments, name):
    with pytest.raises(InputError, match=f"^{name} is .*expected"):
        _phantom(0, **arguments)
