import csv

import numpy as np
import pytest

from configs import dfgan
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data import training_domain
from dfgan_jax.data.pairs import Pairs, joined
from dfgan_jax.data.pairs_file import write_pairs
from dfgan_jax.scans import hounsfield
from tests.simulation.noisy_disc import noisy_disc


def write(path, noise_hu, *, columns=None):
    """Pairs whose low dose has some noise, and their manifest with further columns."""
    qdct = np.stack([noisy_disc(each, seed=seed) for seed, each in enumerate(noise_hu)])
    pairs = Pairs(hounsfield.hu_to_mu(qdct * 0.5), hounsfield.hu_to_mu(qdct))
    write_pairs(path, pairs)
    if columns is not None:
        with path.with_suffix(".manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["index", "patient", *columns])
            writer.writeheader()
            writer.writerows([{"index": index, "patient": "p", **columns}
                              for index in range(len(noise_hu))])
    return Pairs(hounsfield.normalise(qdct * 0.5), hounsfield.normalise(qdct))


def sources(*paths):
    made = dfgan.get_config("demo")
    made.data.train = ",".join(map(str, paths))
    return RunOptions.of(made).sources


def test_files_are_measured_by_their_manifests(tmp_path):
    a, b = tmp_path / "a.npy", tmp_path / "b.npy"
    simulated = {"pixel_spacing_mm": 0.8, "dose_fraction": 0.25}
    pairs = joined([write(a, [10, 20], columns=simulated), write(b, [40, 40], columns=simulated)])
    domain = training_domain.measure(sources(a, b), pairs)
    assert domain.noise_hu[0] == pytest.approx(10 + 0.15 * 10, rel=0.25)
    assert domain.noise_hu[1] == pytest.approx(40, rel=0.2)
    assert domain.kernel_lp_cm == (pytest.approx(3.5, rel=0.15), pytest.approx(3.5, rel=0.15))
    assert domain.pixel_spacing_mm == (0.8, 0.8)
    assert (domain.size, domain.simulated, domain.slices) == ((160, 160), True, 4)


def test_of_real_pairs_the_dose_was_not_simulated(tmp_path):
    pairs = write(tmp_path / "a.npy", [20], columns={"pixel_spacing_mm": 0.8})
    assert not training_domain.measure(sources(tmp_path / "a.npy"), pairs).simulated


def test_a_resize_makes_pixels_larger(tmp_path):
    write(tmp_path / "a.npy", [20], columns={"pixel_spacing_mm": 0.8})
    half = Pairs(np.zeros((1, 80, 80), np.float32), np.zeros((1, 80, 80), np.float32))
    assert training_domain.measure(sources(tmp_path / "a.npy"), half).pixel_spacing_mm == (1.6, 1.6)


@pytest.mark.parametrize("columns", [None, {"kernel": "B30f"}])
def test_without_a_pixel_pitch_nothing_is_known(tmp_path, columns):
    pairs = write(tmp_path / "a.npy", [20], columns=columns)
    assert training_domain.measure(sources(tmp_path / "a.npy"), pairs) is None


def test_phantoms_have_the_pixels_of_their_scan():
    pairs = Pairs(np.zeros((2, 128, 128), np.float32), np.zeros((2, 128, 128), np.float32))
    domain = training_domain.measure(sources(), pairs)
    assert domain.pixel_spacing_mm == (pytest.approx(360 / 128, rel=1e-3),) * 2
    assert domain.noise_hu is None
    assert domain.simulated
