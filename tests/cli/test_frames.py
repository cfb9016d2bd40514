"""The modes that read DICOM take enhanced multi-frame CT as they take single slices."""

import csv

import jax
import numpy as np
import pytest

from dfgan_jax.cli import denoise, pair, simulate_scan
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.scans import dicom
from tests.cli.test_simulate_scan import scanned_disc
from tests.porting.test_cnn10_layout import cnn10
from tests.porting.test_weights import save
from tests.scans import dicom_files, enhanced_files
from tests.scans.enhanced_files import frames


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "cnn10.pth", cnn10(width=2))


def manifest(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_of_frames_is_denoised_with_a_report(tmp_path, weights, capsys):
    source, output = enhanced_files.write(tmp_path / "in.dcm"), tmp_path / "out.dcm"
    denoise.run(checkpoint_path=str(weights), source=source, output=output,
                report=tmp_path / "report.html")
    out = capsys.readouterr().out
    assert f"Wrote {output}: 4 slices of 16×20; " in out
    denoised = Denoiser.load(weights)(frames().astype(np.float32) - 1024)
    written = np.stack([dicom.read_slice_of(header).hu for header in dicom.read_headers(output)])
    np.testing.assert_array_equal(written, np.clip(np.rint(denoised), -1024, 3071))
    assert "in.dcm: frame 4" in (tmp_path / "report.html").read_text()


def test_a_folder_of_frames_is_reported(tmp_path, weights):
    enhanced_files.write(tmp_path / "in" / "e.dcm")
    denoise.run(checkpoint_path=str(weights), source=tmp_path / "in", output=tmp_path / "out",
                report=tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert "9 mm, e.dcm: frame 4" in report


def doses(count=3):
    rng = np.random.default_rng(0)
    return [np.rint(1000 + np.arange(count)[:, None, None] + rng.normal(0, noise, (count, 16, 20))
                    ).astype(int) for noise in (1, 12)]


@pytest.mark.parametrize("single", [False, True])
def test_frames_are_paired_with_frames_and_with_single_slices(tmp_path, single):
    full, quarter = doses()
    enhanced_files.write(tmp_path / "full" / "a.dcm", stored=full, series="1.2.1")
    if single:
        for index, stored in enumerate(quarter):
            dicom_files.write(tmp_path / "quarter" / f"{index}.dcm", stored=stored,
                              series="1.2.2", instance=index, position=(1, 2, 3 * index),
                              PixelSpacing=[0.7, 0.7], IrradiationEventUID="1.2.3.4")
    else:
        enhanced_files.save(tmp_path / "quarter" / "b.dcm", reversed_frames(quarter))
    pair.run(ndct=[[tmp_path / "full"]], qdct=[[tmp_path / "quarter"]], output=tmp_path / "p.npy",
             split=None, patients="id")
    content = np.load(tmp_path / "p.npy", allow_pickle=True).item()
    for key, stored in (("f_nd", full), ("f_qd", quarter)):
        hu = (np.moveaxis(content[key], -1, 0) / 0.0192 - 1) * 1000
        np.testing.assert_allclose(hu, stored - 1024, atol=1e-3)
    rows = manifest(tmp_path / "p.manifest.csv")
    assert [row["ndct_file"] for row in rows] == [
        f"{tmp_path / 'full' / 'a.dcm'}: frame {number}" for number in (1, 2, 3)]
    assert len({row["ndct_sha256"] for row in rows}) == 1
    assert [row["location_mm"] for row in rows] == ["0.0", "3.0", "6.0"]


def reversed_frames(stored):
    """Slices as frames, the last slice first."""
    dataset = enhanced_files.enhanced_ct(stored=stored[::-1], series="1.2.2")
    for index, groups in enumerate(dataset[enhanced_files.PER_FRAME].value):
        groups.PlanePositionSequence[0].ImagePositionPatient = [1, 2, 3 * (len(stored) - 1 - index)]
    return dataset


def test_pairs_are_simulated_from_frames_as_from_single_slices(tmp_path):
    discs = np.stack([scanned_disc(1e6, seed=seed) for seed in range(2)]).astype(int) + 1024
    enhanced_files.write(tmp_path / "frames" / "a.dcm", stored=discs, series="1.2.1")
    for index, stored in enumerate(discs):
        dicom_files.write(tmp_path / "single" / f"{index}.dcm", stored=stored, series="1.2.1",
                          instance=index, position=(1, 2, 3 * index), PixelSpacing=[0.7, 0.7])
    found = []
    for name in ("frames", "single"):
        output = tmp_path / f"{name}.npy"
        simulate_scan.run([[tmp_path / name]], output=output, dose_fraction=0.25, kernel="soft",
                          refilter=None, photons_per_ray=None, pixel_spacing_mm=None, seed=0,
                          split=None, patients="id")
        found.append(np.load(output, allow_pickle=True).item())
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert [row["ndct_file"] for row in manifest(tmp_path / "frames.manifest.csv")] == [
        f"{tmp_path / 'frames' / 'a.dcm'}: frame {number}" for number in (1, 2)]
