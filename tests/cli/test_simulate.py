import numpy as np
import pytest

from configs import attn
from dfgan_jax.cli import simulate
from dfgan_jax.data.pairs_file import read_pairs
from dfgan_jax.support.errors import InputError


@pytest.fixture
def config(tmp_path):
    config = attn.get_config("demo")
    config.data.size = 32
    config.simulation.train_slices = 3
    config.simulation.valid_slices = 1
    config.simulation.test_slices = 2
    config.data.cache_dir = str(tmp_path / "cache")
    return config


def test_writes_the_three_splits_in_the_published_format(config, tmp_path):
    simulate.run(config, output=tmp_path / "out")
    counts = [len(read_pairs(tmp_path / "out" / f"{split}.npy"))
              for split in ("train", "valid", "test")]
    assert counts == [3, 1, 2]
    with pytest.raises(InputError, match=r"train\.npy: exists; choose"):
        simulate.run(config, output=tmp_path / "out")


def test_cached_pairs_are_made_once_and_depend_on_what_is_asked_for(config):
    path = simulate.cached(config, "test")
    made = path.stat().st_mtime_ns
    assert simulate.cached(config, "test") == path
    assert path.stat().st_mtime_ns == made
    first = read_pairs(path)

    config.simulation.seed = 1
    other = simulate.cached(config, "test")
    assert other != path
    assert not np.array_equal(read_pairs(other).ndct, first.ndct)

    config.simulation.seed = 0
    config.simulation.test_slices = 1
    fewer = read_pairs(simulate.cached(config, "test"))
    np.testing.assert_array_equal(fewer.qdct[0], first.qdct[0])


def test_a_cache_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"cache: the cache cannot be written.*data\.cache_dir"):
        simulate.cached(config, "test")


def test_a_lower_dose_is_noisier(config):
    def noise():
        pairs = read_pairs(simulate.cached(config, "test"))
        return np.std(pairs.qdct - pairs.ndct)

    quarter = noise()
    config.simulation.dose_fraction = 0.05
    assert noise() > 1.5 * quarter
