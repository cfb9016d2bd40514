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
