import numpy as np
import pytest

from benchmarks import strength_by_dose
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import write_pairs
from dfgan_jax.scans.hounsfield import hu_to_mu
from dfgan_jax.support.errors import InputError


def psnr(image, ndct):
    return 20 * np.log10(4095 / np.sqrt(np.mean((image - ndct) ** 2)))


def test_the_gain_is_that_of_the_psnr():
    rng = np.random.default_rng(0)
    ndct = rng.normal(0, 300, (16, 16))
    qdct = ndct + rng.normal(0, 40, ndct.shape)
    denoised = ndct + rng.normal(0, 20, ndct.shape)
    means = strength_by_dose.products(qdct, ndct, denoised)
    for strength in (0.0, 0.6, 1.2):
        expected = psnr(qdct + strength * (denoised - qdct), ndct) - psnr(denoised, ndct)
        assert strength_by_dose.gain_db(means, strength) == pytest.approx(expected, abs=1e-9)


def test_groups_have_the_best_strength_and_the_rules():
    """Squared error 2 − 2·s·1 + s²·1.25 has its minimum at s = 0.8."""
    doses = np.array([0.06, 0.31, 0.34])
    means = np.array([[9.0, 4.0, 4.0], [2.0, 1.0, 1.25], [2.0, 1.0, 1.25]])
    low, high = strength_by_dose.by_dose(doses, means)
    assert (low["slices"], low["best_strength"], low["best_gain_db"]) == (1, 1.0, 0.0)
    assert (high["slices"], high["mean_dose_fraction"]) == (2, pytest.approx(0.325))
    assert high["best_strength"] == pytest.approx(0.8)
    assert high["best_gain_db"] == pytest.approx(10 * np.log10(1.25 / 1.2))
    assert high["rule_strength"] == pytest.approx((0.69 + 0.66) / 2 / 0.75)


def test_slices_are_measured_at_the_doses_of_the_manifest(tmp_path, monkeypatch):
    """A model that takes all noise away; at both doses the whole difference map is best."""
    random = np.random.default_rng(0)
    ndct = random.normal(0, 100, (3, 16, 16))
    qdct = ndct + random.normal(0, 40, ndct.shape)
    write_pairs(tmp_path / "pairs.npy", Pairs(*(hu_to_mu(hu).astype(np.float32)
                                                for hu in (ndct, qdct))))
    (tmp_path / "pairs.manifest.csv").write_text(
        "split,index,patient,dose_fraction\n,0,a,0.1\n,1,a,0.2\n,2,b,0.5\n")
    clean = iter(ndct[::2])
    monkeypatch.setattr(strength_by_dose.Denoiser, "load", lambda name: lambda hu: next(clean))
    rows = strength_by_dose.measure([str(tmp_path / "pairs.npy")], "net", every=2)
    assert [(row["slices"], row["mean_dose_fraction"]) for row in rows] == [(1, 0.1), (1, 0.5)]
    assert [row["best_strength"] for row in rows] == [1.0, 1.0]
    assert rows[1]["rule_strength"] == pytest.approx(2 / 3)
    text = strength_by_dose.as_text(rows)
    assert "0.45 to 0.55        1          1.000" in text


def test_pairs_without_doses_are_refused(tmp_path):
    hu = np.zeros((1, 16, 16))
    write_pairs(tmp_path / "pairs.npy", Pairs(*[hu_to_mu(hu).astype(np.float32)] * 2))
    with pytest.raises(InputError, match="no manifest with the dose"):
        strength_by_dose.measure([str(tmp_path / "pairs.npy")], "attn_dfgan", every=1)
