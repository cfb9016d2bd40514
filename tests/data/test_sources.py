import concurrent.futures
import pathlib
import time

import numpy as np
import pytest

from configs import attn
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import read_pairs, write_pairs
from dfgan_jax.data.sources import Sources
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.locks import one_at_a_time
from tests.data.few_phantoms import few_phantoms


def write(path, shape, seed):
    rng = np.random.default_rng(seed)
    # The low dose is the noisier one.
    write_pairs(path, Pairs(*(rng.uniform(0, highest, shape).astype(np.float32)
                              for highest in (0.03, 0.04))))
    return str(path)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration for which nothing is to be simulated."""
    monkeypatch.delattr(Sources, "simulate")
    config = attn.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.evaluation.baselines = ""
    return config


def test_splits_are_preprocessed_and_compared(config, tmp_path):
    config.data.size = 32
    config.data.train = write(tmp_path / "a.npy", (2, 64, 64), 0)
    config.data.test = write(tmp_path / "b.npy", (3, 64, 64), 1)
    pairs = RunOptions.of(config).sources.load(("train", "test"))
    assert pairs["train"].ndct.shape == (2, 32, 32)
    assert len(pairs["test"]) == 3
    config.data.test = config.data.train
    with pytest.raises(InputError, match=r"data\.test: slice 0 is also slice 0 of data\.train"):
        RunOptions.of(config).sources.load(("train", "test"))


def test_a_resize_that_skips_pixels_is_warned_of_once(config, tmp_path, capsys):
    config.data.train = write(tmp_path / "a.npy", (2, 128, 128), 0)
    config.data.test = write(tmp_path / "b.npy", (3, 128, 128), 1)
    for size, warnings in ((32, 1), (64, 0), (0, 0)):
        config.data.size = size
        RunOptions.of(config).sources.load(("train", "test"))
        lines = [line for line in capsys.readouterr().err.splitlines() if "resize" in line]
        assert len(lines) == warnings
        assert all(line.startswith("warning: The resize from 128×128 to 32×32 pixels has no anti")
                   and "reads 25% of the pixels" in line for line in lines)


def test_doses_that_look_exchanged_are_warned_of(config, tmp_path, capsys):
    rng = np.random.default_rng(0)
    ndct, qdct = (rng.normal(0.02, noise, (3, 32, 32)).astype(np.float32)
                  for noise in (1e-4, 2e-4))
    write_pairs(tmp_path / "a.npy", Pairs(ndct, qdct))
    write_pairs(tmp_path / "b.npy", Pairs(qdct + 1e-3, ndct + 1e-3))
    config.data.size = 32
    config.data.train, config.data.test = str(tmp_path / "a.npy"), str(tmp_path / "b.npy")
    RunOptions.of(config).sources.load(("train", "test"))
    assert capsys.readouterr().err.endswith(
        "warning: data.test: the normal dose (f_nd) is noisier than the low dose (f_qd) in 3 of 3 "
        "slices: are the doses exchanged?\n")


def test_patients_of_training_pairs_are_refused_though_these_are_not_read(config, tmp_path):
    """An evaluation neither converts the training pairs nor needs them."""
    config.data.test = write(tmp_path / "b.npy", (1, 64, 64), 1)
    config.data.train = str(tmp_path / "a.npy")
    assert list(RunOptions.of(config).sources.load(("test",))) == ["test"]
    write(tmp_path / "a.npy", (2, 20, 20), 0)
    (tmp_path / "a.manifest.csv").write_text("index,patient\n0,L1\n1,L2\n")
    (tmp_path / "b.manifest.csv").write_text("index,patient\n0,L3\n")
    assert list(RunOptions.of(config).sources.load(("test",))) == ["test"]
    assert len(list((tmp_path / "cache").glob("preprocessed-*"))) == 1
    (tmp_path / "b.manifest.csv").write_text("index,patient\n0,L2\n")
    with pytest.raises(InputError, match=r"data\.test \(\S+b\.npy\): patient 'L2' is also in "
                                         r"data\.train \(\S+a\.npy\), by their manifests"):
        RunOptions.of(config).sources.load(("test",))


def test_slices_are_compared_as_they_were_read(config, tmp_path):
    """Two slices may be equal once they are resized that were not before."""
    mu = np.full((1, 128, 128), 0.02, np.float32)
    other = mu.copy()
    other[0, 0, 0] = 0.03  # a pixel that the resize to a quarter never looks at
    write_pairs(tmp_path / "a.npy", Pairs(mu, mu))
    write_pairs(tmp_path / "b.npy", Pairs(mu, other))
    config.data.size = 32
    config.data.train, config.data.test = str(tmp_path / "a.npy"), str(tmp_path / "b.npy")
    pairs = RunOptions.of(config).sources.load(("train", "test"))
    np.testing.assert_array_equal(pairs["train"].qdct, pairs["test"].qdct)


def test_overlap_is_found_in_what_is_cached(config, tmp_path):
    config.data.size = 32
    write_pairs(tmp_path / "both.npy", Pairs(*(np.concatenate([
        getattr(read_pairs(write(tmp_path / f"{seed}.npy", (2, 64, 64), seed)), dose)
        for seed in (0, 1)]) for dose in ("ndct", "qdct"))))
    config.data.train = str(tmp_path / "1.npy")
    config.data.test = str(tmp_path / "both.npy")
    for _ in range(2):  # converted, then from the cache
        with pytest.raises(InputError, match=r"data\.test: slice 2 is also slice 0 of data\.train"):
            RunOptions.of(config).sources.load(("train", "test"))


def test_the_cache_is_in_the_users_cache_unless_it_is_named(config, tmp_path, monkeypatch):
    assert RunOptions.of(config).data.cache_folder == tmp_path / "cache"
    config.data.cache_dir = ""
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert RunOptions.of(config).data.cache_folder == pathlib.Path("/caches/dfgan_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/one")
    assert RunOptions.of(config).data.cache_folder == pathlib.Path("/home/one/.cache/dfgan_jax")


@pytest.mark.parametrize("odd", ["train", "valid"])
def test_native_sizes_that_do_not_fit_are_refused_in_training(config, tmp_path, odd):
    config.data.size = 0
    for number, split in enumerate(("train", "valid")):
        config.data[split] = write(tmp_path / f"{split}.npy",
                                   (2, 40 if split == odd else 48, 64), number)
    with pytest.raises(InputError, match=rf"data\.{odd} .* slices of 40×64; the networks take"):
        RunOptions.of(config).sources.load(("train", "valid"))


def test_what_is_denoised_only_may_have_any_size(config, tmp_path):
    config.data.size = 0
    for number, split in enumerate(("valid", "test")):
        config.data[split] = write(tmp_path / f"{split}.npy", (2, 41, 64), number)
    loaded = RunOptions.of(config).sources.load(("valid", "test"))
    assert loaded["test"].ndct.shape == (2, 41, 64)


def test_the_same_normal_dose_in_two_splits_is_warned_of(config, tmp_path, capsys):
    config.data.size = 32
    config.data.train = write(tmp_path / "a.npy", (2, 64, 64), 0)
    config.data.test = write(tmp_path / "b.npy", (2, 64, 64), 1)
    RunOptions.of(config).sources.load(("train", "test"))
    assert "warning" not in capsys.readouterr().err
    train, test = (read_pairs(config.data[split]) for split in ("train", "test"))
    write_pairs(tmp_path / "same.npy", Pairs(np.array(train.ndct), np.array(test.qdct)))
    config.data.test = str(tmp_path / "same.npy")
    RunOptions.of(config).sources.load(("train", "test"))
    assert ("warning: normal doses: data.test: slice 0 is also slice 0 of data.train"
            in capsys.readouterr().err)


def test_manifests_that_name_a_patient_in_two_splits_are_refused(config, tmp_path):
    config.data.size = 32
    config.data.valid = write(tmp_path / "a.npy", (2, 64, 64), 0)
    config.data.test = write(tmp_path / "b.npy", (1, 64, 64), 1)
    (tmp_path / "a.manifest.csv").write_text("index,patient\n0,L1\n1,L2\n")
    RunOptions.of(config).sources.load(("valid", "test"))  # the patients of the test are unknown
    (tmp_path / "b.manifest.csv").write_text("index,patient\n0,L2\n")
    with pytest.raises(InputError, match=r"data\.test \(\S+b\.npy\): patient 'L2' is also in "
                                         r"data\.valid \(\S+a\.npy\), by their manifests"):
        RunOptions.of(config).sources.load(("valid", "test"))


def test_one_split_may_hold_a_normal_dose_at_several_low_ones(config, tmp_path, capsys):
    config.data.size = 32
    train, other = (read_pairs(write(tmp_path / f"{name}.npy", (2, 64, 64), seed))
                    for seed, name in enumerate("ab"))
    write_pairs(tmp_path / "again.npy", Pairs(np.array(train.ndct), np.array(other.qdct)))
    config.data.train = f"{tmp_path / 'a.npy'},{tmp_path / 'again.npy'}"
    pairs = RunOptions.of(config).sources.load(("train",))
    assert pairs["train"].counts == [2, 2]
    assert "warning" not in capsys.readouterr().err


def test_several_files_of_a_split_follow_each_other(config, tmp_path):
    config.data.size = 32
    files = [write(tmp_path / f"{name}.npy", (count, 64, 64), seed)
             for seed, (name, count) in enumerate([("a", 2), ("b", 3)])]
    config.data.train = f"{files[0]}, {files[1]}"
    pairs = RunOptions.of(config).sources.load(("train",))["train"]
    assert (len(pairs), pairs.counts) == (5, [2, 3])
    config.data.train = files[1]
    alone = RunOptions.of(config).sources.load(("train",))["train"]
    np.testing.assert_array_equal(pairs.ndct[3], alone.ndct[1])
    config.data.train = f"{files[1]},{files[1]}"
    with pytest.raises(InputError, match=r"data\.train, file 2 \(\S+b\.npy\): slice 0 is also "
                                         r"slice 0 of .*; its split would count it twice"):
        RunOptions.of(config).sources.load(("train",))


def test_files_of_several_sizes_need_crops(config, tmp_path):
    config.data.size = 0
    config.data.train = ",".join([write(tmp_path / "a.npy", (2, 64, 64), 0),
                                  write(tmp_path / "b.npy", (2, 40, 72), 1)])
    with pytest.raises(InputError, match=r"has slices of 40×72 and 64×64; expected one size: set "
                                         r"data\.size to resize, or data\.crop"):
        RunOptions.of(config).sources.load(("train",))
    config.data.crop = 32
    assert RunOptions.of(config).sources.load(("train",))["train"].sizes == [(64, 64), (40, 72)]


@pytest.fixture
def simulated(tmp_path):
    return few_phantoms(tmp_path / "cache")


def test_cached_pairs_are_made_once_and_depend_on_what_is_asked_for(simulated):
    path = RunOptions.of(simulated).sources.simulated("test")
    made = path.stat().st_mtime_ns
    assert RunOptions.of(simulated).sources.simulated("test") == path
    assert path.stat().st_mtime_ns == made
    first = read_pairs(path)

    simulated.simulation.seed = 1
    other = RunOptions.of(simulated).sources.simulated("test")
    assert other != path
    assert not np.array_equal(read_pairs(other).ndct, first.ndct)

    simulated.simulation.seed = 0
    simulated.simulation.test_slices = 1
    fewer = read_pairs(RunOptions.of(simulated).sources.simulated("test"))
    np.testing.assert_array_equal(fewer.qdct[0], first.qdct[0])


def test_a_simulation_is_announced_once(simulated, capsys):
    line = "No files of pairs: simulating 3 phantoms of 32×32 (config.data.valid is empty)\n"
    for lines in (1, 0):  # made, then in the cache
        RunOptions.of(simulated).sources.load(("valid", "test"))
        assert capsys.readouterr().err.count(line) == lines


def test_pairs_that_another_process_simulates_meanwhile_are_waited_for(simulated, capsys):
    sources = RunOptions.of(simulated).sources
    path = sources.simulated("test")
    made = path.read_bytes()
    path.unlink()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with one_at_a_time(path.with_suffix(".lock")):
            waiting = pool.submit(sources.simulated, "test")
            deadline = time.monotonic() + 20
            while "Waiting for the process that holds" not in capsys.readouterr().out:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            path.write_bytes(made[:-4])
        assert waiting.result(timeout=20) == path
    assert path.read_bytes() == made[:-4]  # not simulated again


def test_a_cache_that_cannot_be_written_is_named(simulated, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"cache: the cache cannot be written.*data\.cache_dir"):
        RunOptions.of(simulated).sources.simulated("test")


def test_a_lower_dose_is_noisier(simulated):
    def noise():
        pairs = read_pairs(RunOptions.of(simulated).sources.simulated("test"))
        return np.std(pairs.qdct - pairs.ndct)

    quarter = noise()
    simulated.simulation.dose_fraction = 0.05
    assert noise() > 1.5 * quarter
