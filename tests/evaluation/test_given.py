"""A user's own models in the tables."""

import json
import sys

import nibabel
import numpy as np
import pytest

from configs import dfgan
from dfgan_jax.cli.compared import compare
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation import row_physics
from dfgan_jax.evaluation.given import given_row
from dfgan_jax.evaluation.report import curves
from dfgan_jax.support.errors import InputError
from tests.cli.untrained import untrained
from tests.evaluation.test_comparison import discs
from tests.scans import dicom_files

SHAPE = (2, 16, 20)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working directory, with a module of the user."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nBEST = 1\n"
        "class Net:\n    @staticmethod\n    def halve(hu):\n        hu /= 2\n        return hu\n"
        "def flat(hu):\n    return hu[0]\n"
        "def words(hu):\n    return np.full(hu.shape, 'x')\n"
        "def nans(hu):\n    return np.where(np.arange(2)[:, None, None], np.nan, hu)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def images(source, *, manifest=None, hu=None):
    name, row = given_row("A", str(source), shape=SHAPE, manifest=manifest)
    assert (name, row.table.kind, row.table.parameters) == (
        "A (given)", "model", f"given: {source}")
    return row.denoise(np.zeros(SHAPE, np.float32) if hu is None else hu, None)


def test_a_function_is_called_with_a_copy(own):
    hu = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    before = hu.copy()
    np.testing.assert_array_equal(images("mine:Net.halve", hu=hu), before / 2)
    np.testing.assert_array_equal(hu, before)


def test_an_array_and_a_volume_are_the_slices_themselves(own):
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE)
    np.save("a.npy", hu)
    np.testing.assert_array_equal(images("a.npy"), hu)
    # NIfTI counts columns from the patient's left and rows from the back.
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0).astype(np.int16),
                                     np.diag([-1, -1, 3, 1])), "a.nii.gz")
    np.testing.assert_array_equal(images("a.nii.gz"), hu)


def test_dicom_slices_are_found_by_patient_and_place(own):
    """The files' names and order are others than those of the test slices."""
    for name, z in (("b", 3), ("a", 6)):
        dicom_files.write(own / "tree" / f"{name}.dcm", position=(0, 0, z), PatientID="P7",
                          stored=dicom_files.ramp(first=100 * z), instance=z)
    manifest = [{"patient_id": "P7", "location_mm": text} for text in ("6.0", "3.0")]
    found = images(own / "tree", manifest=manifest)
    assert found[:, 0, 0].tolist() == [600 - 1024, 300 - 1024]
    with pytest.raises(InputError, match="no slice of patient 'P8' at 3 mm, where test slice 1"):
        images(own / "tree", manifest=[manifest[0], manifest[1] | {"patient_id": "P8"}])
    with pytest.raises(InputError, match="slices 0 and 1 are both of patient 'P7' at 6 mm, so"):
        images(own / "tree", manifest=[manifest[0], manifest[0]])
    with pytest.raises(InputError, match="location_mm of the manifest beside the test file, which"):
        images(own / "tree")


@pytest.mark.parametrize(("source", "message"), [
    ("absent:f", "A=absent:f: No module named 'absent'"),
    ("mine:g", "A=mine:g: module mine has no g"),
    ("mine:BEST", "A=mine:BEST: BEST cannot be called"),
    ("mine:flat", r"A=mine:flat: gives slices of shape \(16, 20\); expected \(2, 16, 20\)"),
    ("mine:words", "A=mine:words: gives <U1; expected numbers in HU"),
    ("mine:nans", "A=mine:nans: slice 1 has a NaN or an infinity"),
    ("absent.npy", "absent.npy: no such file"),
    ("mine.py", r"^A=mine\.py: is Python code; expected NAME=module:callable, such as A=mine:CALL"),
    ("no such thing", "expected NAME=FILE, an .npy, a NIfTI file or a folder of DICOM files"),
    ("small.npy", r"A=small.npy: gives slices of shape \(2, 16, 16\); expected \(2, 16, 20\)"),
])
def test_others_are_named(own, source, message):
    np.save("small.npy", np.zeros((2, 16, 16)))
    with pytest.raises(InputError, match=message):
        images(source)


def test_they_stand_in_the_tables_and_have_physics_on_slices(own, monkeypatch):
    monkeypatch.setattr(row_physics, "REPEATS", 4)
    monkeypatch.setattr(curves, "_png", lambda figure: b"")
    config, _ = untrained(own / "a", dfgan, seed=1)
    config.evaluation.protocols, config.evaluation.baselines = "redcnn", ""
    data = discs(4)
    np.save("array.npy", 500 * data.ndct - 500)
    compare(RunOptions.of(config), workdir=own / "out", data={"test": data},
            denoisers=[Denoiser.load(own / "a")],
            given={"perfect": "array.npy", "half": "mine:Net.halve"})
    results = json.loads((own / "out" / "results.json").read_text())
    rows = {row["name"]: row for row in results["protocols"]["redcnn"]["rows"]}
    assert list(rows) == ["QDCT", "DFGAN", "perfect (given)", "half (given)"]
    assert rows["perfect (given)"]["rmse_hu"] < 1e-3 < rows["half (given)"]["rmse_hu"]
    assert results["model"] == "DFGAN"
    assert list(results["speed"]) == ["DFGAN", "half (given)"]
    physics = results["physics"]
    assert set(physics["slices"]["rows"]) == {"NDCT", *rows}
    # What was denoised elsewhere cannot denoise the simulated objects.
    assert set(physics["phantom"]["rows"]) == {"NDCT", *rows} - {"perfect (given)"}
