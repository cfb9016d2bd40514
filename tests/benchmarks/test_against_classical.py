import json

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import against_classical
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import write_pairs
from dfgan_jax.scans.hounsfield import hu_to_mu
from dfgan_jax.support.errors import InputError


@pytest.fixture(scope="module")
def slices():
    """Three blurred discs of 100 HU in air, and the same with noise of 40 HU."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] - 23.5
    ndct = np.stack([ndimage.gaussian_filter(np.where(np.hypot(x, y) < radius, 100.0, -900.0), 2)
                     for radius in (14, 16, 18)])
    return ndct, ndct + rng.normal(0, 40, ndct.shape)


@pytest.fixture
def path(tmp_path, slices):
    write_pairs(tmp_path / "pairs.npy", Pairs(*(hu_to_mu(hu).astype(np.float32)
                                                for hu in slices)))
    return str(tmp_path / "pairs.npy")


def psnr(image, ndct, low, high):
    error = np.clip(image, low, high) - np.clip(ndct, low, high)
    width = 4095 if np.isinf(low) else high - low
    return float(np.mean(20 * np.log10(width / np.sqrt((error**2).mean((1, 2))))))


def test_the_classical_row_is_the_best_of_its_kind_under_each_protocol(path, slices):
    ndct, qdct = slices
    rows = against_classical.measure(path, [], ["gaussian"], [])
    assert [row["row"] for row in rows] == ["QDCT", "Gaussian"]
    for protocol, window in (("full_range", (-np.inf, np.inf)), ("redcnn", (-160, 240))):
        assert rows[0][protocol]["psnr"] == pytest.approx(psnr(qdct, ndct, *window), abs=1e-3)
        on_a_grid = [psnr(np.stack([ndimage.gaussian_filter(image, sigma) for image in qdct]),
                          ndct, *window) for sigma in np.geomspace(0.3, 4, 60)]
        assert rows[1][protocol]["psnr"] == pytest.approx(max(on_a_grid), abs=0.02)
    sigma = rows[1]["parameters"]
    assert sigma["full_range"]["sigma"] != sigma["redcnn"]["sigma"]


def test_slices_are_grouped_by_columns_of_the_manifest(path, slices, tmp_path):
    (tmp_path / "pairs.manifest.csv").write_text(
        "split,index,patient,kernel\n,0,a,B30\n,1,b,D45\n,2,c,B30\n")
    [row] = against_classical.measure(path, [], [], ["kernel"])
    assert {name: group["slices"] for name, group in row["groups"].items()} == {"B30": 2, "D45": 1}
    ndct, qdct = (each[[0, 2]] for each in slices)
    assert row["groups"]["B30"]["psnr"] == pytest.approx(
        psnr(qdct, ndct, -np.inf, np.inf), abs=1e-3)
    assert "B30: 2 slices, full_range [dB]: QDCT " in against_classical.as_text([row])
    json.dumps(row)


def test_groups_without_a_manifest_are_refused(path):
    with pytest.raises(InputError, match=r"pairs\.npy: has no manifest, which --by needs"):
        against_classical.measure(path, [], [], ["kernel"])


def test_a_self_ensemble_is_a_row_of_its_own(path, slices, monkeypatch):
    monkeypatch.setattr(against_classical.Denoiser, "load", lambda name, self_ensemble=False: (
        lambda hu: ndimage.gaussian_filter(hu, (0, 1, 1)) + 3 * self_ensemble))
    rows = against_classical.measure(path, ["net"], [], [], self_ensemble=True)
    assert [row["row"] for row in rows] == ["QDCT", "net", "net, self-ensemble"]
    assert rows[2]["soft_tissue_bias_hu"] - rows[1]["soft_tissue_bias_hu"] == pytest.approx(3)
    ndct, qdct = slices
    assert rows[2]["full_range"]["psnr"] == pytest.approx(
        psnr(ndimage.gaussian_filter(qdct, (0, 1, 1)) + 3, ndct, -np.inf, np.inf), abs=1e-3)


def test_a_known_dose_is_a_row_with_its_strength(path, slices, monkeypatch):
    """A model that takes all noise away, and the whole of it at two thirds."""
    ndct, qdct = slices
    monkeypatch.setattr(against_classical.Denoiser, "load", lambda name, strength=1.0: (
        lambda hu: hu + strength * (ndct - hu)))
    rows = against_classical.measure(path, ["net"], [], [], dose_fraction=0.5)
    assert [row["row"] for row in rows] == ["QDCT", "net", "net, strength 0.667"]
    assert rows[2]["full_range"]["psnr"] == pytest.approx(
        psnr(ndct + (qdct - ndct) / 3, ndct, -np.inf, np.inf), abs=1e-3)
