"""`--mode=pair` on a tree like the collection LDCT-and-Projection-data."""

import csv

import numpy as np
import pytest

from dfgan_jax.cli import pair
from dfgan_jax.cli.patterns import paths_of
from dfgan_jax.support.errors import InputError
from tests.cli import command
from tests.scans import collection, dicom_files


def run(output, **folders):
    """The rows of the manifest."""
    pair.run(output=output, split=None, patients="id",
             **{name: paths_of(name, texts) for name, texts in folders.items()})
    with output.with_suffix(".manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def series(rows):
    return {(row["patient"], row["ndct_file"].split("/")[-2], row["qdct_file"].split("/")[-2])
            for row in rows}


PAIRED = {(patient, "1.000000-Full Dose Images-22030", "1.000000-Low Dose Images-22031")
          for patient in ("C002", "L004")}


def test_patterns_take_the_folders_of_each_dose(tmp_path):
    tree = collection.write(tmp_path)
    rows = run(tmp_path / "pairs.npy", ndct=[f"{tree}/*/*/*Full Dose*"],
               qdct=[f"{tree}/C*/*/*Low Dose*,{tree}/L*/*/*Low Dose*"])
    assert series(rows) == PAIRED
    assert len(rows) == 6


def test_folders_without_slices_among_those_of_a_pattern_are_named(tmp_path, capsys):
    tree = collection.write(tmp_path, patients=("C002",))
    rows = run(tmp_path / "pairs.npy", ndct=[f"{tree}/*/*/*Full*"], qdct=[f"{tree}/*/*/*Low*"])
    assert len(rows) == 3
    printed = capsys.readouterr().err
    assert "1.000000-Full-projections: no CT slice among 1 file" in printed
    assert "skipped 1 × Raw Data Storage, not CT Image Storage" in printed


def test_doses_of_one_tree_are_told_apart_by_the_description(tmp_path, capsys):
    tree = collection.write(tmp_path)
    rows = run(tmp_path / "pairs.npy", trees=[str(tree)])
    assert series(rows) == PAIRED
    assert len(rows) == 6
    assert {row["noisier"] for row in rows} == {"qdct"}
    printed = capsys.readouterr().err
    assert "skipped 4 × Raw Data Storage, not CT Image Storage" in printed
    assert "left out" not in printed


def test_the_folders_of_idc_index_name_no_dose_and_need_not(tmp_path):
    tree = collection.write(tmp_path, layout="idc")
    assert series(run(tmp_path / "pairs.npy", trees=[str(tree)])) == {
        ("C002", "CT_1.2.1.1", "CT_1.2.1.2"), ("L004", "CT_1.2.2.1", "CT_1.2.2.2")}


def test_series_of_no_dose_are_named_and_projections_never_paired(tmp_path, capsys):
    tree = collection.write(tmp_path, patients=("C002",))
    dicom_files.write(tree / "C002" / "topogram.dcm", series="1.7", PatientID="C002",
                      SeriesDescription="Thorax 3.0")
    collection.write_projections(tree / "C002", "C002", series="1.8",
                                 SOPClassUID=dicom_files.ct_slice().SOPClassUID)
    assert len(run(tmp_path / "pairs.npy", trees=[str(tree)])) == 3
    printed = capsys.readouterr().err
    assert printed.count("left out: series ") == 2
    assert "its description 'Thorax 3.0' names no dose" in printed
    assert "its description 'Full dose projections' is of projections" in printed


def test_exchanged_descriptions_are_noticed(tmp_path, capsys):
    tree = collection.write(tmp_path, descriptions=("Low Dose Images", "Full Dose Images"))
    run(tmp_path / "pairs.npy", trees=[str(tree)])
    assert ("noisier than the low dose in 6 of 6 slices: are the descriptions of the series "
            "exchanged?") in capsys.readouterr().err


@pytest.mark.parametrize(("descriptions", "message"), [
    (("Full Dose Images", "Full Dose 2"),
     r"no series is of the low dose .*'Full Dose 2' \(1 series\), 'Full Dose Images' \(1 series"),
    (("Abdomen", "Low Dose Images"), r"no series is of the normal dose .*'Abdomen' \(1 "
                                       r"series\), .*; or name the folders of each dose: --ndct")])
def test_a_tree_with_one_dose_is_an_error(tmp_path, descriptions, message):
    tree = collection.write(tmp_path, patients=("C002",), descriptions=descriptions)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "pairs.npy", trees=[str(tree)])
    assert not (tmp_path / "pairs.npy").exists()


def test_a_tree_of_projections_alone_is_an_error(tmp_path):
    collection.write_projections(tmp_path / "in", "C002", series="1.5")
    with pytest.raises(InputError, match=r"in: no CT slice among 1 file; skipped 1 × Raw Data St"):
        run(tmp_path / "pairs.npy", trees=[str(tmp_path / "in")])


def test_patients_by_folder_are_those_below_the_tree(tmp_path):
    tree = collection.write(tmp_path, PatientID="Anonymous", patients=("C002",))
    pair.run(trees=[[tree]], output=tmp_path / "pairs.npy", split=None, patients="folder")
    with (tmp_path / "pairs.manifest.csv").open(newline="") as file:
        assert {row["patient"] for row in csv.DictReader(file)} == {"C002"}


def test_the_command_line_pairs_a_tree(tmp_path):
    tree = collection.write(tmp_path, patients=("C002", "C004", "L004"), count=1)
    done = command.run("--mode=pair", f"--input={tree.parent}/LDCT-*", "--split=0.4,0.3,0.3",
                       f"--output={tmp_path / 'pairs'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3 patients: C002, C004, L004"
    assert np.load(tmp_path / "pairs" / "test.npy", allow_pickle=True).item()["f_nd"].shape == (
        16, 16, 1)


def test_the_command_line_names_what_is_not_there_in_one_line(tmp_path):
    for options, message in (
            ([f"--input={tmp_path}/absent"], f"error: --input: {tmp_path}/absent: no such folder"),
            ([f"--ndct={tmp_path}/*Full*", "--qdct=q"],
             f"error: --ndct: nothing matches the pattern '{tmp_path}/*Full*'; expected one such "
             "as 'LDCT/**/*Full Dose*', in quotes")):
        done = command.run("--mode=pair", f"--output={tmp_path / 'x.npy'}", *options)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [message]
