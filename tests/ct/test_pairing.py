import dataclasses
import pathlib

import pytest

from dfgan_jax.ct.dicom import SliceHeader
from dfgan_jax.ct.pairing import is_placeholder, match_slices
from dfgan_jax.errors import InputError


def series(name, *, locations=(0.0, 2.0, 4.0), **changes):
    """Headers of a series; file names and instance numbers run against the positions."""
    first = SliceHeader(
        path=pathlib.Path(name), rows=16, columns=20, sop_uid="", series_uid=name,
        study_uid=f"study {name}", frame_of_reference_uid=f"frame {name}", acquisition="scan 1",
        patient_id="P1", series_description="", instance_number=None, kernel="B30f",
        thickness_mm=3.0, pixel_spacing_mm=(0.7, 0.7), orientation=(1, 0, 0, 0, 1, 0),
        position_mm=None)
    first = dataclasses.replace(first, **changes)
    return [dataclasses.replace(
        first, path=pathlib.Path(name, f"{9 - index}.dcm"), sop_uid=f"{name} {location}",
        instance_number=9 - index, position_mm=(-100.0, -90.0, location))
        for index, location in enumerate(locations)]


def paired(matching):
    return [(pair.ndct.sop_uid, pair.qdct.sop_uid) for pair in matching.pairs]


def test_slices_are_paired_by_position_and_not_by_name_or_number():
    ndct = series("full", locations=(4.0, 0.0, 2.0))
    qdct = series("quarter", locations=(2.004, 4.0, 0.0))
    matching = match_slices(ndct, qdct)
    assert paired(matching) == [("full 0.0", "quarter 0.0"), ("full 2.0", "quarter 2.004"),
                                ("full 4.0", "quarter 4.0")]
    assert matching.notes == []


def test_what_has_no_counterpart_is_counted():
    matching = match_slices(series("full", locations=(0.0, 2.0, 4.0)),
                            series("quarter", locations=(2.0, 4.0, 6.0, 8.0)))
    assert len(matching.pairs) == 2
    assert [note[:note.index(" of series")] for note in matching.notes] == ["1 slices", "2 slices"]


def test_series_of_several_patients_and_kernels_find_their_own():
    def all_of(dose):
        return [header for patient in ("P1", "P2") for kernel in ("B30f", "D45f")
                for header in series(f"{dose} {patient} {kernel}", patient_id=patient,
                                     kernel=kernel)]

    matching = match_slices(all_of("full"), list(reversed(all_of("quarter"))))
    assert len(matching.pairs) == 12
    for ndct, qdct in paired(matching):
        assert qdct == ndct.replace("full", "quarter")


@pytest.mark.parametrize(("change", "word"), [
    ({"rows": 18}, "size"), ({"pixel_spacing_mm": (0.7, 0.71)}, "pixel spacing"),
    ({"orientation": (1, 0, 0, 0, 0.95, -0.31)}, "orientation"), ({"kernel": "D45f"}, "kernel"),
    ({"thickness_mm": 1.0}, "thickness"), ({"pixel_spacing_mm": None}, "pixel spacing"),
    ({"locations": (1.0, 3.0)}, "the places of all slices")])
def test_series_of_another_geometry_are_not_paired_and_told_why(change, word):
    with pytest.raises(InputError, match=rf"no slice .* belongs together.*differs in {word}"):
        match_slices(series("full"), series("quarter", **change))


def test_another_patient_at_the_same_place_is_not_paired():
    with pytest.raises(InputError, match="normal dose without a low dose"):
        match_slices(series("full"), series("quarter", patient_id="P2"))


def test_where_ids_are_placeholders_the_acquisition_decides():
    anonymous = {"patient_id": "Anonymous"}
    ndct = series("full", **anonymous)
    matching = match_slices(ndct, series("other", acquisition="scan 2", **anonymous)
                            + series("quarter", **anonymous))
    assert {qdct.split()[0] for _, qdct in paired(matching)} == {"quarter"}
    with pytest.raises(InputError, match="no slice"):
        match_slices(ndct, series("other", acquisition="scan 2", **anonymous))


def test_of_several_series_that_fit_the_same_acquisition_is_taken():
    matching = match_slices(series("full"), series("later", acquisition="scan 2")
                            + series("quarter"))
    assert {qdct.split()[0] for _, qdct in paired(matching)} == {"quarter"}


@pytest.mark.parametrize(("ndct", "qdct"), [(["full"], ["a", "b"]), (["a", "b"], ["quarter"])])
def test_series_that_fit_equally_well_are_refused(ndct, qdct):
    with pytest.raises(InputError, match=r"fit.* equally well.*pair them apart"):
        match_slices([header for name in ndct for header in series(name)],
                     [header for name in qdct for header in series(name)])


def test_the_same_slices_on_both_sides_are_refused():
    with pytest.raises(InputError, match="3 slices stand in both folders"):
        match_slices(series("full"), series("quarter") + series("full"))


@pytest.mark.parametrize("twice", ["full", "quarter"])
def test_two_slices_at_one_place_are_left_out_and_named(twice):
    locations = {"full": (0.0, 2.0, 4.0), "quarter": (0.0, 2.0, 4.0), twice: (0.0, 2.0, 2.0, 4.0)}
    doses = {name: series(name, locations=places) for name, places in locations.items()}
    matching = match_slices(doses["full"], doses["quarter"])
    assert [ndct for ndct, _ in paired(matching)] == ["full 0.0", "full 4.0"]
    assert any("left out, the first" in note for note in matching.notes)


def test_a_slice_of_another_thickness_within_a_series_is_left_out():
    qdct = series("quarter")
    qdct[1] = dataclasses.replace(qdct[1], thickness_mm=1.0)
    matching = match_slices(series("full"), qdct)
    assert [ndct for ndct, _ in paired(matching)] == ["full 0.0", "full 4.0"]
    assert "1 slices of series full" in matching.notes[0]
    assert "another geometry" in matching.notes[0]


@pytest.mark.parametrize(("name", "is_one"), [
    ("Anonymous", True), ("", True), (" REMOVED ", True), ("L143", False), ("00", False)])
def test_placeholders_are_told_from_names(name, is_one):
    assert is_placeholder(name) is is_one
