import numpy as np
import pytest

from dfgan_jax.data.domain import Domain, ScanProperties
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import write_pairs
from dfgan_jax.evaluation.slice_facts import (
    SliceFacts,
    pitch_notes,
    resize_notes,
    seen_notes,
    tuning_notes,
)


def written(path, size):
    mu = np.full((1, size, size), 0.02, np.float32)
    write_pairs(path, Pairs(mu, mu))
    return str(path)


@pytest.mark.parametrize(("thickness", "expected"), [
    (("3", "1.5"), [1.5, 3.0]), (("3", ""), None), (None, None)])
def test_facts_have_the_range_of_the_thickness_and_the_sizes(tmp_path, thickness, expected):
    files = [written(tmp_path / name, size) for name, size in (("a.npy", 512), ("b.npy", 96))]
    manifest = [{"patient": "p"} | ({"thickness_mm": each} if thickness else {})
                for each in thickness or ("", "")]
    facts = SliceFacts.of_files(files, manifest, [(128, 128), (96, 96)])
    assert facts.as_json(pixel_spacing_mm=2.8) == {
        "pixel_spacing_mm": 2.8, "thickness_mm": expected, "native_sizes": [[512, 512], [96, 96]]}
    (note,) = facts.notes()
    assert note.startswith("The resize from 512×512 to 128×128 pixels has no antialiasing")
    assert "25% of the pixels" in note


def test_phantoms_have_no_file_to_know_anything_of():
    facts = SliceFacts.of_files((), None, [(128, 128)])
    assert facts.as_json(pixel_spacing_mm=None)["thickness_mm"] is None
    assert facts.notes() == []


def domain(lowest_mm, highest_mm):
    measured = [ScanProperties(None, None, each) for each in (lowest_mm, highest_mm)]
    return Domain.of(measured, sizes=[512], simulated=False)


@pytest.mark.parametrize(("trained", "pitch_mm", "words"), [
    ((0.7, 0.7), 0.76, None), ((0.7, 0.7), 0.78, "pixels of 0.7 mm; those of the test slices have "
                               "0.78 mm"),
    ((0.7, 0.7), 0.62, "0.62 mm"), ((0.6, 0.8), 0.56, None),
    ((0.6, 0.8), 2.8, "pixels of 0.61 to 0.79 mm; those of the test slices have 2.8 mm"),
    ((0.7, 0.7), None, None)])
def test_a_note_names_the_pitches_of_training_and_test_more_than_a_tenth_apart(trained, pitch_mm,
                                                                               words):
    notes = pitch_notes({"AttnDFGAN": domain(*trained), "MINE": None}, pitch_mm)
    assert len(notes) == (words is not None)
    assert all(words in note and note.startswith("AttnDFGAN was trained on") for note in notes)


def test_a_note_names_models_of_native_slices_that_are_given_resized_ones():
    trained = {"DFGAN": 0, "AttnDFGAN": 256}
    (note,) = resize_notes(trained, [((96, 96), (96, 96)), ((512, 512), (256, 256))])
    assert note == ("DFGAN was trained on slices at their native size; here they are resized from "
                    "512×512 to 256×256, which --config.data.size=0 prevents.")
    assert resize_notes(trained, [((96, 96), (96, 96))]) == []


def test_models_that_saw_the_slices_are_named():
    models = {"A": {"train": "one", "valid": "two"}, "A, self-ensemble": {"train": "one"},
              "B": {"train": "other", "valid": "one"}, "C": {"train": "two"}, "D": {}}
    assert seen_notes(models, {"test": "one", "valid": "two"}) == [
        "Trained on this very test split, so that the scores are far too good: "
        "A; A, self-ensemble.",
        "Chosen among its checkpoints on this very test split, so that the scores are too good: B.",
        "Trained on this very validation split, on which classical denoisers are tuned: C."]
    assert seen_notes(models, {"test": "three"}) == []


def rows(*kinds):
    return [{"kernel": kernel, "thickness_mm": thickness} for kernel, thickness in kinds]


@pytest.mark.parametrize(("tuned", "scored", "notes"), [
    (rows(("D45", "3.0")), rows(("B30", "3")), [
        "Classical denoisers are tuned on slices of kernel D45, and the test slices have B30: "
        "their rows may be too low."]),
    (rows(("B30", "1"), ("B30", "3")), rows(("B30", "3")), [
        "Classical denoisers are tuned on slices of thickness 1 mm, 3 mm, and the test slices "
        "have 3 mm: their rows may be too low."]),
    (rows(*((f"K{number}", "") for number in range(7))), rows(("K0", "3")), [
        "Classical denoisers are tuned on slices of kernel K0, K1, K2, K3, K4 and 2 more, and the "
        "test slices have K0: their rows may be too low."]),
    (rows(("B30", "3")), rows(("B30", "3.0")), []), (rows(("", "0")), rows(("B30", "3")), []),
    ([{}], rows(("B30", "3")), []), (None, rows(("B30", "3")), []), (rows(("B30", "3")), None, [])])
def test_a_note_names_other_kernels_and_thicknesses_of_the_tuning(tuned, scored, notes):
    assert tuning_notes(tuned, scored) == notes
