import pytest

from dfgan_jax.cli import simulate
from dfgan_jax.data.pairs_file import read_pairs
from dfgan_jax.support.errors import InputError
from tests.data.few_phantoms import few_phantoms


@pytest.fixture
def config(tmp_path):
    return few_phantoms(tmp_path / "cache")


def test_writes_the_three_splits_in_the_published_format(config, tmp_path):
    simulate.run(config, output=tmp_path / "out")
    counts = [len(read_pairs(tmp_path / "out" / f"{split}.npy"))
              for split in ("train", "valid", "test")]
    assert counts == [3, 1, 2]
    with pytest.raises(InputError, match=r"train\.npy: exists; choose"):
        simulate.run(config, output=tmp_path / "out")
