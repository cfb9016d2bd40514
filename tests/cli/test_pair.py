import csv
import hashlib

import numpy as np
import pydicom
import pytest

from configs import attn
from dfgan_jax.cli import pair
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.dataset import SPLITS
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.errors import InputError
from tests.cli import command
from tests.scans import dicom_files

DOSES = {"full": 1, "quarter": 12}
"""Folder → standard deviation of the noise [HU]."""


def write_trees(root, *, patients=("P1",), count=3, **options):
    """Writes root/{full,quarter}/PATIENT/N.dcm; the files of the doses are named differently."""
    rng = np.random.default_rng(0)
    for number, patient in enumerate(patients, start=1):
        for dose, noise in DOSES.items():
            for index in range(count):
                stored = np.rint(1000 + 10 * number + index + rng.normal(0, noise, (16, 20)))
                dicom_files.write(
                    root / dose / patient / f"{count - index if dose == 'full' else index}.dcm",
                    stored=stored, series=f"1.2.{number}.{DOSES[dose]}", instance=index + 1,
                    position=(0, 0, 2 * index), **{
                        "PatientID": patient, "AcquisitionDateTime": f"2020010{number}10000{index}",
                        "StudyInstanceUID": f"1.3.{number}", **options})
    return root / "full", root / "quarter"


def run(full, quarter, output, **options):
    pair.run(ndct=[[full]], qdct=[[quarter]], output=output,
             **{"split": None, "patients": "id", **options})


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def means(path):
    content = np.load(path, allow_pickle=True).item()
    return {key: hounsfield.mu_to_hu(content[key]).mean((0, 1)) for key in content}


def test_two_trees_become_a_file_and_a_manifest(tmp_path, capsys):
    full, quarter = write_trees(tmp_path)
    run(full, quarter, tmp_path / "pairs.npy")
    # HU = stored − 1024; the mean of a slice tells which it is.
    np.testing.assert_allclose(means(tmp_path / "pairs.npy")["f_nd"], [-14, -13, -12], atol=0.3)
    np.testing.assert_allclose(means(tmp_path / "pairs.npy")["f_qd"], [-14, -13, -12], atol=2.5)
    first, *_, last = rows(tmp_path / "pairs.manifest.csv")
    assert first["ndct_file"] == str(full / "P1" / "3.dcm")
    assert first["qdct_file"] == str(quarter / "P1" / "0.dcm")
    assert first["qdct_sha256"] == hashlib.sha256(
        (quarter / "P1" / "0.dcm").read_bytes()).hexdigest()
    assert (last["patient"], last["instance_number"], last["location_mm"], last["kernel"],
            last["thickness_mm"]) == ("P1", "3", "4.0", "B30f", "3.0")
    assert "exchanged" not in capsys.readouterr().err


def test_exchanged_doses_are_noticed(tmp_path, capsys):
    full, quarter = write_trees(tmp_path)
    run(quarter, full, tmp_path / "pairs.npy")
    assert "noisier than the low dose in 3 of 3 slices" in capsys.readouterr().err


@pytest.mark.parametrize(("patients", "ids", "names"), [
    ("id", None, {"P1", "P2", "P3"}), ("folder", "same", {"P1", "P2", "P3"}),
    ("id", "Anonymous", 3), ("study", "same", 3)])
def test_splits_go_by_what_tells_patients_apart(tmp_path, patients, ids, names):
    full, quarter = write_trees(tmp_path, patients=("P1", "P2", "P3"),
                                **({} if ids is None else {"PatientID": ids}))
    run(full, quarter, tmp_path / "out", split="0.4,0.3,0.3", patients=patients)
    found = rows(tmp_path / "out" / "manifest.csv")
    assert len(found) == 9
    of_split = {split: {row["patient"] for row in found if row["split"] == split}
                for split in ("train", "valid", "test")}
    assert [len(each) for each in of_split.values()] == [1, 1, 1]
    told_apart = set.union(*of_split.values())
    assert told_apart == names or len(told_apart) == names
    for split, (patient,) in of_split.items():
        number = {row["ndct_file"] for row in found if row["patient"] == patient}
        assert len({name.split("/")[-2] for name in number}) == 1
        assert len(means(tmp_path / "out" / f"{split}.npy")["f_nd"]) == 3


def test_one_id_for_several_patients_is_one_patient_that_cannot_be_split(tmp_path):
    full, quarter = write_trees(tmp_path, patients=("P1", "P2", "P3"), PatientID="same")
    with pytest.raises(InputError, match=r"1 patient \(same\).*patients=study or"):
        run(full, quarter, tmp_path / "out", split="0.4,0.3,0.3")
    assert not (tmp_path / "out").exists()


def test_a_broken_file_is_named_and_the_rest_written(tmp_path):
    full, quarter = write_trees(tmp_path)
    broken = quarter / "P1" / "1.dcm"
    broken.write_bytes(broken.read_bytes()[:-100])
    (full / "notes.txt").write_text("no slice")
    with pytest.raises(InputError, match=r"1 broken file left out, the first .*1\.dcm: "):
        run(full, quarter, tmp_path / "pairs.npy")
    assert len(means(tmp_path / "pairs.npy")["f_qd"]) == 2
    assert len(rows(tmp_path / "pairs.manifest.csv")) == 2


def test_a_file_without_a_header_is_named_and_the_rest_written(tmp_path):
    full, quarter = write_trees(tmp_path)
    (full / "P1" / "4.dcm").touch()
    with pytest.raises(InputError, match=r"1 broken file left out, the first .*4\.dcm: "):
        run(full, quarter, tmp_path / "pairs.npy")
    assert len(rows(tmp_path / "pairs.manifest.csv")) == 3


def test_a_pair_of_another_size_is_named_and_the_rest_written(tmp_path):
    full, quarter = write_trees(tmp_path)
    for number, folder in enumerate((full, quarter)):
        dicom_files.write(folder / "P1" / "odd.dcm", series="1.4", instance=number,
                          stored=dicom_files.ramp((8, 9), first=100 + number))
    with pytest.raises(InputError, match=r"1 broken file left out, the first .*full/P1/odd\.dcm is "
                                         r"8×9, and most slices are 16×20"):
        run(full, quarter, tmp_path / "pairs.npy")
    assert len(rows(tmp_path / "pairs.manifest.csv")) == 3


def test_the_same_pixels_at_both_doses_are_no_pair(tmp_path):
    full, quarter = write_trees(tmp_path)
    for number in (1, 2):
        dicom_files.write(tmp_path / ("full", "quarter")[number - 1] / "P2" / "0.dcm",
                          series=f"1.9.{number}", PatientID="P2")
    with pytest.raises(InputError, match=r"has the pixels of .*: the doses are the same"):
        run(full, quarter, tmp_path / "pairs.npy")
    assert len(rows(tmp_path / "pairs.manifest.csv")) == 3


def test_slices_that_are_not_in_hu_are_left_out_though_their_corners_are_padded(tmp_path):
    """Stored values that have lost their intercept: the body is at 1000, and padding is air."""
    full, quarter = write_trees(tmp_path, count=2)
    for path in (full / "P1" / "1.dcm", quarter / "P1" / "1.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.RescaleIntercept = 0
        stored = dataset.pixel_array.copy()
        stored[0, :3] = 0
        dataset.PixelData = stored.tobytes()
        dataset.save_as(path)
    with pytest.raises(InputError, match=r"1 broken file left out, the first .*P1/1\.dcm: has "
                                         r"values from .* which cannot be HU"):
        run(full, quarter, tmp_path / "pairs.npy")
    assert len(rows(tmp_path / "pairs.manifest.csv")) == 1


@pytest.mark.parametrize("dose", DOSES)
def test_a_blank_slice_of_either_dose_is_left_out(tmp_path, capsys, dose):
    full, quarter = write_trees(tmp_path, patients=("P1", "P2"), count=2)
    for patient in ("P1", "P2"):
        path = tmp_path / dose / patient / "1.dcm"
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.full((16, 20), 5, dataset.pixel_array.dtype).tobytes()
        dataset.save_as(path)
    run(full, quarter, tmp_path / "pairs.npy")
    assert capsys.readouterr().err.count("blank, -1019 HU everywhere") == 2
    assert len(rows(tmp_path / "pairs.manifest.csv")) == 2


def test_blank_slices_are_left_out(tmp_path, capsys):
    full, quarter = write_trees(tmp_path)
    dicom_files.write(full / "P1" / "blank.dcm", stored=np.full((16, 20), 5), series="1.2.1.1",
                      instance=9, position=(0, 0, 50), PatientID="P1")
    dicom_files.write(quarter / "P1" / "blank.dcm", series="1.2.1.12", instance=9,
                      position=(0, 0, 50), PatientID="P1")
    run(full, quarter, tmp_path / "pairs.npy")
    assert len(rows(tmp_path / "pairs.manifest.csv")) == 3
    assert "blank.dcm: blank, -1019 HU everywhere" in capsys.readouterr().err


def test_several_kernels_are_pointed_out(tmp_path, capsys):
    full, quarter = write_trees(tmp_path)
    for number, noise in enumerate(DOSES.values()):
        stored = np.rint(np.random.default_rng(1).normal(1000, noise, (16, 20)))
        dicom_files.write(tmp_path / ("full", "quarter")[number] / "P1" / "sharp.dcm",
                          stored=stored, series=f"1.9.{number}", ConvolutionKernel="D45f",
                          PatientID="P1")
    run(full, quarter, tmp_path / "pairs.npy")
    assert ("several kernels: B30f, D45f; their noise differs, so score them apart\n"
            in capsys.readouterr().err)


@pytest.mark.parametrize(("spacing", "recorded"), [
    ([0.7, 0.7], "0.7"), ([0, 0], ""), ([0.8, 0.4], "")])
def test_the_pitch_of_square_pixels_alone_is_recorded(tmp_path, spacing, recorded):
    full, quarter = write_trees(tmp_path, count=1, PixelSpacing=spacing)
    run(full, quarter, tmp_path / "pairs.npy")
    (row,) = rows(tmp_path / "pairs.manifest.csv")
    assert row["pixel_spacing_mm"] == recorded


def test_training_loads_what_the_command_line_paired(tmp_path):
    full, quarter = write_trees(tmp_path, patients=("P1", "P2", "P3"))
    done = command.run("--mode=pair", f"--ndct={full}", f"--qdct={quarter}",
                       f"--output={tmp_path / 'out'}", "--split=0.4,0.3,0.3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3 patients: P1, P2, P3"
    config = attn.get_config()
    config.data.size, config.data.cache_dir = 32, str(tmp_path / "cache")
    for split in SPLITS:
        config.data[split] = str(tmp_path / "out" / f"{split}.npy")
    pairs = RunOptions.of(config).sources.load(SPLITS)
    assert [len(each) for each in pairs.values()] == [3, 3, 3]
    assert (np.abs(pairs["test"].qdct - 0.97) < 0.2).all()  # (−14 + 500) / 500


def test_folders_that_are_not_given_or_not_there_are_named(tmp_path):
    for options, message in ((["--qdct=q"], "--mode=pair needs --ndct=DIR"),
                             (["--ndct=absent", "--qdct=q"],
                              "--ndct: absent: no such folder"),
                             (["--ndct=", "--qdct=q"], "--ndct is empty; expected a path")):
        done = command.run("--mode=pair", f"--output={tmp_path / 'x.npy'}", *options)
        assert done.returncode == 1
        assert message in done.stderr


def test_linked_folders_are_paired(tmp_path, capsys):
    full, quarter = write_trees(tmp_path / "store", patients=("P1", "P2"))
    for dose in (full, quarter):
        (tmp_path / dose.name / "P1").mkdir(parents=True)
        for path in (dose / "P1").iterdir():
            path.rename(tmp_path / dose.name / "P1" / path.name)
        (tmp_path / dose.name / "P2").symlink_to(dose / "P2")
        (tmp_path / dose.name / "again").symlink_to("P1")
    run(tmp_path / "full", tmp_path / "quarter", tmp_path / "pairs.npy", patients="folder")
    assert len(means(tmp_path / "pairs.npy")["f_nd"]) == 6
    assert {row["patient"] for row in rows(tmp_path / "pairs.manifest.csv")} == {"P1", "P2"}
    assert capsys.readouterr().err.count("again: the folder ") == 2
