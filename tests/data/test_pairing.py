import dataclasses
import pathlib

import pytest

from dfgan_jax.data.pairing import is_placeholder, match_slices
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.support.errors import InputError


def series(name, *, locations=(0.0, 2.0, 4.0), **changes):
    """Headers of a series; file names and instance numbers run against the positions."""
    first = SliceHeader(
        path=pathlib.Path(name), rows=16, columns=20, sop_uid="", series_uid=name,
        study_uid=f"study {name}", frame_of_reference_uid=f"frame {name}", acquisition="event 1",
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
    first, second = matching.notes
    assert first.startswith("1 slice of series full (3 slices")
    assert first.endswith("without low dose: none lies there")
    assert second.startswith("2 slices of series quarter (4 slices")
    assert second.endswith("not used")


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
    ({"patient_id": "P2"}, "patient ID"), ({"acquisition": "event 2"}, "acquisition")])
def test_what_differs_is_not_paired_and_told(change, word):
    with pytest.raises(InputError, match=rf"no slice .* belongs together.*differs in {word} \("):
        match_slices(series("full"), series("quarter", **change))


def test_slices_elsewhere_or_nowhere_are_not_paired():
    nowhere = [dataclasses.replace(header, position_mm=None) for header in series("quarter")]
    for low in (series("quarter", locations=(1.0, 3.0)), nowhere):
        with pytest.raises(InputError, match=r"no slice .* belongs together.*none lies there"):
            match_slices(series("full"), low)


def test_where_ids_are_placeholders_the_acquisition_decides():
    anonymous = {"patient_id": "Anonymous"}
    ndct = series("full", **anonymous)
    matching = match_slices(ndct, series("other", acquisition="event 2", **anonymous)
                            + series("quarter", **anonymous))
    assert {qdct.split()[0] for _, qdct in paired(matching)} == {"quarter"}


def test_an_acquisition_may_be_named_in_another_way_or_not_at_all():
    for acquisition in ("time 20200102101112", ""):
        matching = match_slices(series("full"), series("quarter", acquisition=acquisition,
                                                       study_uid="study full"))
        assert len(matching.pairs) == 3
        assert matching.notes == []


def test_slices_have_acquisition_times_of_their_own():
    doses = {name: [dataclasses.replace(header, acquisition=f"time {index}")
                    for index, header in enumerate(series(name))] for name in ("full", "quarter")}
    del doses["quarter"][0]  # the first of the one series is the second of the other
    assert len(match_slices(doses["full"], doses["quarter"]).pairs) == 2


def test_pairs_that_only_a_place_holds_together_are_pointed_out():
    matching = match_slices(series("full"), series("quarter", acquisition=""))
    assert len(matching.pairs) == 3
    assert "3 pairs with neither acquisition, study nor frame" in matching.notes[0]


@pytest.mark.parametrize("kin", ["acquisition", "study_uid", "frame_of_reference_uid"])
def test_of_several_slices_that_fit_the_closest_kin_is_taken(kin):
    ndct = series("full", acquisition="")
    ndct = [dataclasses.replace(header, **{kin: "event 7"}) for header in ndct]
    others = series("a", acquisition=""), series("c", acquisition="")
    matching = match_slices(ndct, others[0] + series("b", **{"acquisition": "", kin: "event 7"})
                            + others[1])
    assert {qdct.split()[0] for _, qdct in paired(matching)} == {"b"}
    # And of several normal doses, the one that is.
    matching = match_slices(others[0] + ndct + others[1],
                            series("b", **{"acquisition": "", kin: "event 7"}))
    assert {name.split()[0] for name, _ in paired(matching)} == {"full"}
    assert sum("closer normal dose" in note for note in matching.notes) == 2


def test_what_neither_states_is_no_kinship():
    full = series("full", acquisition="")
    matching = match_slices(full, series("a", acquisition="", study_uid="another")
                            + series("b", acquisition="event 9", study_uid="study full"))
    assert {qdct.split()[0] for _, qdct in paired(matching)} == {"b"}


@pytest.mark.parametrize(("ndct", "qdct"), [(["full"], ["a", "b"]), (["a", "b"], ["quarter"])])
def test_slices_that_fit_equally_well_are_left_out_and_the_others_paired(ndct, qdct):
    other = {"patient_id": "P2", "acquisition": "event 2"}
    matching = match_slices([header for name in ndct for header in series(name)]
                            + series("sure", **other),
                            [header for name in qdct for header in series(name)]
                            + series("sure low", **other))
    assert {name.split()[0] for name, _ in paired(matching)} == {"sure"}
    assert any("left out, the first" in note and "fit equally well" in note
               for note in matching.notes)


def test_series_may_be_divided():
    low = series("low 1", locations=(0.0, 2.0)) + series("low 2", locations=(4.0,))
    assert len(match_slices(series("full"), low).pairs) == 3


def test_the_same_files_on_both_sides_are_refused():
    with pytest.raises(InputError, match="3 files in both folders"):
        match_slices(series("full"), series("quarter") + series("full"))


def test_a_low_dose_may_keep_the_identifiers_of_its_source():
    full = series("full")
    low = [dataclasses.replace(header, path=pathlib.Path("low", header.path.name))
           for header in full]
    assert [pair.qdct.path.parent.name for pair in match_slices(full, low).pairs] == ["low"] * 3


@pytest.mark.parametrize("twice", ["full", "quarter"])
def test_copies_are_left_out_and_the_slices_stay(twice):
    doses = {name: series(name) for name in ("full", "quarter")}
    doses[twice] += [dataclasses.replace(header, path=pathlib.Path("copy", header.path.name))
                     for header in doses[twice]]
    matching = match_slices(doses["full"], doses["quarter"])
    assert len(matching.pairs) == 3
    (note,) = matching.notes
    assert note.startswith("3 files left out as copies, the first copy/9.dcm of ")


def numbered(headers, name):
    """With UIDs that an anonymiser has counted anew in every patient or series."""
    return [dataclasses.replace(header, sop_uid=f"{name}.{number}")
            for number, header in enumerate(headers)]


@pytest.mark.parametrize("change", [{"patient_id": "P2"}, {"acquisition": "event 2"}])
def test_slices_of_others_with_the_same_uids_are_no_copies(change):
    doses = {}
    for dose in ("full", "quarter"):
        doses[dose] = numbered(series(dose), dose) + numbered(
            series(f"other {dose}", **change), dose)
    matching = match_slices(doses["full"], doses["quarter"])
    assert len(matching.pairs) == 6
    assert matching.notes == [
        f"3 slices with the SOP instance UID of another slice, the first other {dose}/9.dcm of "
        f"{dose}/9.dcm, but of another patient, series or place: taken as slices of their own"
        for dose in ("full", "quarter")]


def test_slices_of_a_series_with_one_uid_are_no_copies():
    full, quarter = ([dataclasses.replace(header, sop_uid=name) for header in series(name)]
                     for name in ("full", "quarter"))
    assert len(match_slices(full, quarter).pairs) == 3


@pytest.mark.parametrize("twice", ["full", "quarter"])
def test_two_slices_at_one_place_are_left_out_and_named(twice):
    doses = {name: series(name) for name in ("full", "quarter")}
    doses[twice].append(dataclasses.replace(doses[twice][1], sop_uid="another"))
    matching = match_slices(doses["full"], doses["quarter"])
    assert [ndct for ndct, _ in paired(matching)] == ["full 0.0", "full 4.0"]
    assert any("left out, the first" in note for note in matching.notes)


def test_a_slice_of_another_thickness_within_a_series_is_left_out():
    qdct = series("quarter")
    qdct[1] = dataclasses.replace(qdct[1], thickness_mm=1.0)
    matching = match_slices(series("full"), qdct)
    assert [ndct for ndct, _ in paired(matching)] == ["full 0.0", "full 4.0"]
    assert "1 slice of series full" in matching.notes[0]
    assert "differs in thickness (3.0, 1.0)" in matching.notes[0]


@pytest.mark.parametrize(("name", "is_one"), [
    ("Anonymous", True), ("", True), (" REMOVED ", True), ("L143", False), ("00", False)])
def test_placeholders_are_told_from_names(name, is_one):
    assert is_placeholder(name) is is_one
