import json
import os
import subprocess
import sys

import numpy as np
import pytest
import sewar
from absl import flags
from absl.testing import flagsaver
from scipy import ndimage

from benchmarks import ldct_benchmark
from dfgan_jax.support.errors import InputError
from tests.cli.command import ROOT
from tests.scans import collection


def test_the_split_is_that_of_the_repository():
    split = ldct_benchmark.SPLIT
    patients = [*split["train"], *split["valid"], *split["test"]]
    assert len(set(patients)) == len(patients) == 150
    for name, each in (("train", 35), ("valid", 10), ("test", 5)):  # prepare_dataset: 70, 20, 10 %
        assert [sum(patient[0] == letter for patient in split[name]) for letter in "CLN"] == [
            each] * 3
    assert sum(split["test"].values()) == 2836


def windowed(x, center, width):
    """The formula of `apply_center_width`, on stored values."""
    lower, upper = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return np.where(x <= lower, 0, np.where(x > upper, 1, (x - (center - 0.5)) / (width - 1) + 0.5))


def flat_ssim(x, y):
    """SSIM with a flat 7×7 window, sample covariance and without the border of 3 (Wang 2004)."""
    def mean(image):
        return ndimage.uniform_filter(image, 7)[3:-3, 3:-3]

    sample = 49 / 48
    mx, my = mean(x), mean(y)
    vx, vy, vxy = (sample * (mean(a * b) - mean(a) * mean(b)) for a, b in ((x, x), (y, y), (x, y)))
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


@pytest.mark.parametrize(("region", "center", "width", "level"), [
    ("chest", 1024 - 600, 1500, -700), ("abdomen", 1024 + 50, 400, 50),
    ("neuro", 1024 + 40, 80, 40)])
def test_the_scores_are_those_of_the_projects_formulas(region, center, width, level):
    rng = np.random.default_rng(0)
    ndct = np.rint(level + ndimage.gaussian_filter(rng.normal(0, 8 * width, (64, 64)), 4))
    image = ndct + np.rint(rng.normal(0, width / 8, ndct.shape))
    shown, expected = (windowed(each + 1024, center, width) for each in (image, ndct))
    ssim, psnr, vif = ldct_benchmark.score(image, ndct, region)
    assert ssim == pytest.approx(flat_ssim(expected, shown), abs=1e-5)
    assert psnr == pytest.approx(-10 * np.log10(((shown - expected) ** 2).mean()), abs=1e-4)
    stored, reference = (np.clip(each + 1024, 0, 2924) for each in (image, ndct))
    # The first argument is the reference: theirs is the scored image.
    assert vif == pytest.approx(sewar.vifp(stored, reference, sigma_nsq=2.0), rel=1e-6)
    assert vif != pytest.approx(sewar.vifp(reference, stored, sigma_nsq=2.0), rel=1e-3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Test patients C121 and C249 and, not to be scored, C002."""
    top = collection.write(tmp_path_factory.mktemp("a"), patients=("C002", "C121", "C249"),
                           layout="idc", size=48, count=2)
    return top.parent


def test_the_mean_is_over_all_slices_of_a_region():
    rows = {"C121": {"low dose": [[0.0, 10.0, 0.0]]},
            "C249": {"low dose": [[1.0, 40.0, 0.5], [1.0, 40.0, 0.5]]},
            "L241": {"low dose": [[0.5, 20.0, 0.1]]}}
    assert ldct_benchmark.means(rows) == {"low dose": {
        "chest": pytest.approx([2 / 3, 30.0, 1 / 3]), "abdomen": [0.5, 20.0, 0.1]}}


def test_test_patients_are_found_paired_and_scored(tree, capsys):
    patients = ldct_benchmark.run(tree, ["attn_dfgan"], None)
    assert list(patients) == ["C121", "C249"]
    assert all(len(rows[name]) == 2 for rows in patients.values()
               for name in ("low dose", "attn_dfgan"))
    printed = capsys.readouterr().err
    assert "test patients that are not in" in printed
    assert "C170, C135" in printed
    assert "C121: 2 pairs; ldct-benchmark has 392" in printed
    text = ldct_benchmark.as_text(patients)
    assert "chest, 2 of 5, 4 slices" in text
    assert "abdomen, 0 of 5, 0 slices" in text
    assert "RED-CNN    " in text
    assert "0.584     28.002   0.205" in text
    assert all(len(rows["low dose"]) == 1
               for rows in ldct_benchmark.run(tree, [], 1).values())
    json.dumps(patients)


def command(*options):
    return subprocess.run([sys.executable, "-m", "benchmarks.ldct_benchmark", *options], cwd=ROOT,
                          env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True,
                          text=True, timeout=300, check=False)


def test_the_folders_of_a_split_are_printed_for_pairing(tree):
    done = command(f"--tree={tree}", "--folders=train")
    assert done.stdout.strip() == str(tree / "ldct_and_projection_data" / "C002"), done.stderr


@pytest.mark.parametrize(("options", "message"), [
    ((), "--tree is missing; expected a folder of the collection LDCT-and-Projection-data"),
    (("--tree=absent",), "--tree: absent: no such folder"),
    (("--tree=docs",), "--tree: docs: no folder has the name of a patient such as C121; expected "
                       "the collection LDCT-and-Projection-data"),
    (("--tree=docs", "--folders=all"), "--folders is 'all'; expected train, valid or test"),
    (("--tree=docs", "--slices=0"), "--slices is 0; expected 1 or more"),
    (("docs",), "unexpected argument 'docs'; options start with --")])
def test_what_cannot_be_scored_is_named_in_one_line(options, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = dict(option.removeprefix("--").split("=") for option in options if "=" in option)
    if "slices" in values:
        values["slices"] = int(values["slices"])
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**values), pytest.raises(SystemExit) as stopped:
        ldct_benchmark.main(["program", *(each for each in options if "=" not in each)])
    assert str(stopped.value) == f"error: {message}"


def test_a_patient_without_a_dose_is_named(tmp_path):
    tree = collection.write(tmp_path, patients=("C121",), descriptions=("Thorax", "Low Dose"))
    with pytest.raises(InputError, match=r"^C121: no series is of the normal dose"):
        ldct_benchmark.run(tree, [], None)


def test_a_broken_file_is_named(tmp_path):
    tree = collection.write(tmp_path, patients=("C121",))
    path = next(tree.rglob("*Full Dose*/1-02.dcm"))
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^C121: .*1-02\.dcm: .*; the protocol takes every slice"):
        ldct_benchmark.run(tree, [], None)
