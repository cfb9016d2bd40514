import errno
import json
import os
import shutil

import numpy as np
import pytest

from dfgan_jax.data.domain import Domain
from dfgan_jax.denoising import denoiser
from dfgan_jax.denoising.dicom_tree import denoise_tree
from dfgan_jax.models.generators import architecture_of, build_generator
from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom import read_slice
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.support.errors import InputError
from tests.denoising.alive import Alive
from tests.scans.dicom_files import SERIES, ramp, write
from tests.simulation.noisy_disc import noisy_disc

DERIVATION = Derivation(model="AttnDFGAN", weights_sha256="ab" * 32, version="1.2")
OTHER_MODEL = Derivation(model="AttnDFGAN", weights_sha256="cd" * 32, version="1.2")
SECOND_SERIES = f"{SERIES}.77"


class FakeDenoiser(denoiser.Denoiser):
    """Adds 5 HU, and records the shapes of its inputs."""

    domain = None
    _architecture = architecture_of(build_generator(width=2))

    def __init__(self, domain=None):
        self.domain = domain
        self.shapes = []
        self.programs = set()
        self.units = set()

    def __call__(self, qdct_hu, *, batch_size=None, padded_size=None, out=None, progress=None,
                 unit="hu"):
        self.shapes.append(qdct_hu.shape)
        self.programs.add((batch_size, padded_size))
        self.units.add(unit)
        return qdct_hu + 5


def slices(folder, count=6, **options):
    return [write(folder / f"{i:02}.dcm", instance=i, position=(0, 0, 3 * i), **options)
            for i in range(1, count + 1)]


def run(tmp_path, *, derivation=DERIVATION, denoiser=None, **options):
    return denoise_tree(denoiser or FakeDenoiser(), derivation=derivation, source=tmp_path / "in",
                        output=tmp_path / "out", **options)


def copy_volume(source, target):
    """A `VolumeDenoiser` that changes nothing, and takes empty files for broken."""
    if not source.stat().st_size:
        raise InputError(f"{source}: broken")
    shutil.copyfile(source, target)
    return {"slices": 2, "saturated_pixels": 1}


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_tree_is_written_with_the_same_names(tmp_path, two_at_a_time):
    source = tmp_path / "in"
    first = slices(source / "a", 3)
    second = slices(source / "b" / "c", 2, series=SECOND_SERIES, slope=5)
    denoiser = FakeDenoiser()
    summary = run(tmp_path, denoiser=denoiser)
    assert files(tmp_path / "out") == sorted([*files(source), "summary.json"])
    assert not (tmp_path / "out.incomplete").exists()
    assert denoiser.shapes == [(2, 16, 20), (2, 16, 20), (1, 16, 20)]
    for path in first:
        written = read_slice(tmp_path / "out" / path.relative_to(source))
        np.testing.assert_array_equal(written.stored, ramp() + 5)
        assert written.header.sop_uid == DERIVATION.derived_uid(read_slice(path).header.sop_uid)
        assert written.header.series_uid == DERIVATION.derived_uid(SERIES)
    for path in second:
        written = read_slice(tmp_path / "out" / path.relative_to(source))
        np.testing.assert_array_equal(written.stored, ramp() + 1)
        assert written.header.series_uid == DERIVATION.derived_uid(SECOND_SERIES)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert (summary["model"], summary["weights_sha256"]) == ("AttnDFGAN", "ab" * 32)
    assert (summary["slices"], summary["written_before"]) == (5, 0)
    assert (summary["broken"], summary["skipped"]) == ({}, {})
    assert [(each["source_series_uid"], each["slices"], each["missing"], each["notes"])
            for each in summary["series"]] == [(SERIES, 3, [], []), (SECOND_SERIES, 2, [], [])]
    assert summary["series"][0]["series_uid"] == DERIVATION.derived_uid(SERIES)


def test_every_folder_is_on_the_disk_before_the_tree_has_its_name(tmp_path, monkeypatch):
    slices(tmp_path / "in" / "a" / "b", 2)
    synced = []

    def fsync(descriptor):
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "out").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    run(tmp_path)
    folders = [tmp_path / "out" / name for name in ("", "a", "a/b")]
    assert {(folder.stat().st_ino, False) for folder in folders} <= set(synced)
    assert {(path.stat().st_ino, False) for path in folders[-1].iterdir()} <= set(synced)
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_broken_and_other_files_do_not_keep_the_rest_from_being_written(tmp_path, two_at_a_time):
    source = tmp_path / "in"
    paths = slices(source, 5)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])  # its header is whole
    paths[3].write_bytes(b"")
    write(source / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (source / "notes.txt").write_text("notes")
    summary = run(tmp_path)
    assert files(tmp_path / "out") == ["01.dcm", "03.dcm", "05.dcm", "summary.json"]
    assert sorted(summary["broken"]) == ["02.dcm", "04.dcm"]
    assert summary["broken"]["02.dcm"].startswith("broken (ValueError: ")
    assert summary["skipped"] == {"scout.dcm": "localizer", "notes.txt": "not a DICOM file"}
    series, = summary["series"]
    assert (summary["slices"], series["slices"], series["missing"]) == (3, 3, ["02.dcm"])
    assert series["notes"] == ["the input has gaps between 3 and 15 mm, with room for 1 slice"]


def test_a_slice_that_cannot_be_written_is_broken(tmp_path, monkeypatch):
    slices(tmp_path / "in", 3)
    write_slice = dicom.write_slice

    def refusing(path, source, hu, *, derivation):
        if path.name == "02.dcm":
            raise InputError(f"{source.header.path}: broken (of a kind)")
        return write_slice(path, source, hu, derivation=derivation)

    monkeypatch.setattr(dicom, "write_slice", refusing)
    summary = run(tmp_path)
    assert summary["broken"] == {"02.dcm": "broken (of a kind)"}
    assert files(tmp_path / "out") == ["01.dcm", "03.dcm", "summary.json"]


def test_pixels_beyond_the_stored_range_are_counted_by_series(tmp_path):
    stored = np.full((4, 4), 1000)
    stored[1, 1:3] = 4093
    slices(tmp_path / "in" / "a", 2, stored=stored)
    slices(tmp_path / "in" / "b", 3, series=SECOND_SERIES)
    summary = run(tmp_path)
    assert summary["saturated_pixels"] == 4
    assert [series["saturated_pixels"] for series in summary["series"]] == [4, 0]


def test_sizes_may_be_mixed(tmp_path, two_at_a_time):
    source = tmp_path / "in"
    slices(source / "a", 3)
    slices(source / "b", 3, stored=ramp((5, 7)), series=SECOND_SERIES)
    denoiser = FakeDenoiser()
    assert run(tmp_path, denoiser=denoiser)["slices"] == 6
    assert denoiser.shapes == [(2, 16, 20), (1, 16, 20), (2, 5, 7), (1, 5, 7)]
    assert denoiser.programs == {(2, (32, 32))}
    np.testing.assert_array_equal(read_slice(tmp_path / "out" / "b" / "03.dcm").stored,
                                  ramp((5, 7)) + 5)


def test_a_tree_of_ten_sizes_needs_four_programs(tmp_path):
    for index in range(10):
        slices(tmp_path / "in" / str(index), 1, stored=ramp((20 + 16 * index, 30)), bits=16,
               series=f"{SERIES}.{index}")
    denoiser = FakeDenoiser()
    assert run(tmp_path, denoiser=denoiser)["slices"] == 10
    assert len(denoiser.programs) == 4


@pytest.mark.parametrize(("error", "kind"), [
    (OSError(errno.ENOSPC, "No space left on device"), OSError), (KeyboardInterrupt(),
                                                                  KeyboardInterrupt)])
def test_what_was_interrupted_goes_on_from_there(tmp_path, monkeypatch, capsys, two_at_a_time,
                                                 error, kind):
    slices(tmp_path / "in", 7)
    write_slice = dicom.write_slice

    def interrupted(path, source, hu, *, derivation):
        if path.name == "04.dcm":
            raise error
        return write_slice(path, source, hu, derivation=derivation)

    with monkeypatch.context() as patched:
        patched.setattr(dicom, "write_slice", interrupted)
        with pytest.raises(kind):
            run(tmp_path)
    assert "slices in" in capsys.readouterr().err
    incomplete = tmp_path / "out.incomplete"
    before = files(incomplete)
    assert {"01.dcm", "02.dcm"} <= set(before) <= {f"0{i}.dcm" for i in (1, 2, 3, 5, 6, 7)}
    assert not (tmp_path / "out").exists()

    # What a killed process leaves, besides.
    (incomplete / f".04.dcm.{'0' * 16}").write_bytes(b"half of it")
    times = {name: (incomplete / name).stat().st_mtime_ns for name in before}
    summary = run(tmp_path)
    assert (summary["slices"], summary["written_before"]) == (7, len(before))
    out = tmp_path / "out"
    assert files(out) == [*(f"0{i}.dcm" for i in range(1, 8)), "summary.json"]
    assert times == {name: (out / name).stat().st_mtime_ns for name in before}
    assert not incomplete.exists()
    np.testing.assert_array_equal(read_slice(out / "04.dcm").stored, ramp() + 5)


@pytest.mark.parametrize("cut", [lambda content: content[:-200], lambda content: content[:400],
                                 lambda content: b""])
@pytest.mark.parametrize("name", ["01.dcm", "02.dcm"])
def test_a_file_that_was_cut_off_is_written_again(tmp_path, cut, name):
    """As a power failure leaves it; of six slices the first is measured, the second is not."""
    slices(tmp_path / "in")
    run(tmp_path)
    (tmp_path / "out" / "summary.json").unlink()
    path = tmp_path / "out" / name
    path.write_bytes(cut(path.read_bytes()))
    (tmp_path / "out").rename(tmp_path / "out.incomplete")
    summary = run(tmp_path)
    assert (summary["slices"], summary["written_before"]) == (6, 5)
    np.testing.assert_array_equal(read_slice(path).stored, ramp() + 5)
    assert summary["broken"] == {}


@pytest.mark.parametrize("name", [".DS_Store", "a/.DS_Store", "._01.dcm", "Thumbs.db",
                                  "desktop.ini", ".nfs000000000000000100000001"])
def test_files_of_systems_do_not_keep_a_folder_from_going_on(tmp_path, name):
    slices(tmp_path / "in", 2)
    path = tmp_path / "out.incomplete" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of the system")
    assert run(tmp_path)["slices"] == 2


def test_two_commands_do_not_write_one_output_at_once(tmp_path):
    slices(tmp_path / "in", 3)

    class StartsASecond(FakeDenoiser):
        def __call__(self, qdct_hu, **options):
            with pytest.raises(InputError, match=r"out\.incomplete: another process is writing"):
                run(tmp_path)
            return super().__call__(qdct_hu, **options)

    assert run(tmp_path, denoiser=StartsASecond())["slices"] == 3
    assert not (tmp_path / "out.incomplete").exists()


def left_by_another_model(tmp_path):
    slices(tmp_path / "in", 3)
    run(tmp_path, derivation=OTHER_MODEL)
    (tmp_path / "out" / "summary.json").unlink()
    return "01.dcm"


def left_by_another_input(tmp_path):
    write(tmp_path / "in" / "former" / "x.dcm", series=SECOND_SERIES)
    run(tmp_path)
    (tmp_path / "in" / "former" / "x.dcm").unlink()
    slices(tmp_path / "in", 3)
    return "former/x.dcm"


def left_beside_a_file_that_was_cut_off(tmp_path):
    """Which stays, too, since the folder is not ours."""
    name = left_by_another_model(tmp_path)
    (tmp_path / "out" / "03.dcm").write_bytes(b"")
    return name


def left_by_somebody(tmp_path):
    slices(tmp_path / "in", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "02.dcm").write_text("mine")
    return "02.dcm"


@pytest.mark.parametrize("leave", [
    left_by_another_model, left_by_another_input, left_by_somebody,
    left_beside_a_file_that_was_cut_off])
def test_what_others_left_is_neither_replaced_nor_taken_for_ours(tmp_path, leave):
    name = leave(tmp_path)
    incomplete = tmp_path / "out.incomplete"
    (tmp_path / "out").rename(incomplete)
    before = {path: (incomplete / path).read_bytes() for path in files(incomplete)}
    with pytest.raises(InputError, match=rf"{name}( and \d more)?: not made from this input"):
        run(tmp_path)
    assert before == {path: (incomplete / path).read_bytes() for path in files(incomplete)}
    assert not (tmp_path / "out").exists()


def test_an_output_within_the_input_is_refused(tmp_path):
    slices(tmp_path / "in", 1)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for output in ("in/out", "in", "link/out"):
        with pytest.raises(InputError, match="lies within the input"):
            denoise_tree(FakeDenoiser(), derivation=DERIVATION, source=tmp_path / "in",
                         output=tmp_path / output)
    assert files(tmp_path / "in") == ["01.dcm"]


@pytest.mark.parametrize("name", ["out.incomplete", "out.incomplete/in", "link"])
def test_an_input_in_the_incomplete_output_is_refused_and_stays(tmp_path, name):
    (tmp_path / "link").symlink_to("out.incomplete")
    slices(tmp_path / "out.incomplete" / "in", 1)
    (tmp_path / "out.incomplete" / f".notes.{'0' * 16}").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"out\.incomplete, the name of the output until it is "
                                         rf"complete, (is|holds) .*{name}; choose another output"):
        denoise_tree(FakeDenoiser(), derivation=DERIVATION, source=tmp_path / name,
                     output=tmp_path / "out")
    assert files(tmp_path) == before


def test_an_incomplete_output_behind_a_link_into_the_input_is_refused(tmp_path):
    slices(tmp_path / "in", 1)
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "out.incomplete").symlink_to("in/sub")
    with pytest.raises(InputError, match=r"out\.incomplete: lies within the input"):
        run(tmp_path)


def test_what_is_not_left_of_our_files_stays(tmp_path):
    slices(tmp_path / "in" / "a", 2)
    incomplete = tmp_path / "out.incomplete"
    for name in ("a/.01.dcm", "a/.other", "a/b/.01.dcm", ".summary.json"):
        path = incomplete / f"{name}.{'0' * 16}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run(tmp_path)
    assert files(tmp_path / "out") == [f"a/.other.{'0' * 16}", "a/01.dcm", "a/02.dcm",
                                       f"a/b/.01.dcm.{'0' * 16}", "summary.json"]


def test_where_other_files_lie_nothing_is_removed(tmp_path):
    slices(tmp_path / "in", 2)
    (tmp_path / "out.incomplete").mkdir()
    for name in (f".01.dcm.{'0' * 16}", "notes"):
        (tmp_path / "out.incomplete" / name).touch()
    with pytest.raises(InputError, match="notes: not made from this input"):
        run(tmp_path)
    assert files(tmp_path / "out.incomplete") == [f".01.dcm.{'0' * 16}", "notes"]


def test_a_folder_without_a_slice_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=r"in: no CT slice among 0 files$"):
        run(tmp_path)
    for i in range(25):
        (tmp_path / "in" / f"{i}.dcm").write_bytes(b"")
    (tmp_path / "in" / "notes").write_text("notes")
    with pytest.raises(InputError) as caught:
        run(tmp_path)
    message = str(caught.value)
    assert "no CT slice among 26 files; skipped 1 × not a DICOM file; broken: " in message
    assert message.endswith("and 5 more broken files")
    assert "\n" not in message
    assert files(tmp_path) == sorted(f"in/{name}" for name in files(tmp_path / "in"))


def test_a_tree_of_broken_slices_is_no_output(tmp_path):
    for path in slices(tmp_path / "in", 2):
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="no slice could be denoised; broken: "):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_no_more_than_three_batches_are_in_memory(tmp_path, monkeypatch, two_at_a_time):
    slices(tmp_path / "in", 24)
    alive = Alive()
    monkeypatch.setattr(dicom, "read_slice", alive.counted(dicom.read_slice, 1))
    monkeypatch.setattr(dicom, "write_slice", alive.counted(dicom.write_slice, -1))
    assert run(tmp_path)["slices"] == 24
    assert alive.now == 0
    assert 2 < alive.most <= 6


KNOWN = Domain(noise_hu=(10.0, 30.0), kernel_lp_cm=(3.0, 4.0), pixel_spacing_mm=(0.6, 0.9),
               size=(512, 512), simulated=True, slices=24)


def stored(noise_hu, *, seed):
    return np.rint(np.maximum(noisy_disc(noise_hu, seed=seed), -1024)).astype(int) + 1024


def test_series_unlike_those_of_training_are_told(tmp_path, capsys):
    for name, noise_hu, series in (("usual", 20, SERIES), ("noisy", 60, SECOND_SERIES)):
        for i in range(1, 3):
            write(tmp_path / "in" / name / f"{i}.dcm", instance=i, position=(0, 0, 3 * i),
                  stored=stored(noise_hu, seed=i), series=series, PixelSpacing=[0.8, 0.8])
    summary = run(tmp_path, denoiser=FakeDenoiser(KNOWN))
    error = capsys.readouterr().err
    assert error.count("warning: series") == 1
    assert f"warning: series {SECOND_SERIES}: noise of" in error
    assert "HU above the 10 to 30 that the model was trained on" in error
    by_uid = {each["source_series_uid"]: each for each in summary["series"]}
    usual, noisy = by_uid[SERIES], by_uid[SECOND_SERIES]
    assert usual["outside_training"] == []
    (told,) = noisy["outside_training"]
    assert told.endswith("HU above the 10 to 30 that the model was trained on")
    assert usual["noise_before_hu"] == pytest.approx(20, rel=0.2)
    assert noisy["noise_before_hu"] == pytest.approx(60, rel=0.2)
    # The fake adds 5 HU everywhere, and takes no noise.
    assert noisy["noise_after_hu"] == noisy["noise_before_hu"]
    assert usual["soft_tissue_shift_hu"] == noisy["soft_tissue_shift_hu"] == 5
    assert usual["pixel_spacing_mm"] == 0.8
    assert usual["kernel_lp_cm"] == pytest.approx(3.5, rel=0.15)
    assert summary["trained_on"] == KNOWN.as_json()


@pytest.mark.parametrize("spacing", [[0.8, 0.8], None])
def test_a_series_that_is_not_in_hu_is_broken_and_the_others_are_written(tmp_path, spacing):
    for name, intercept, series in (("hu", -1024, SERIES), ("stored", 0, SECOND_SERIES)):
        for i in range(1, 4):
            write(tmp_path / "in" / name / f"{i}.dcm", instance=i, position=(0, 0, 3 * i),
                  stored=stored(20, seed=i), series=series, intercept=intercept,
                  PixelSpacing=spacing)
    denoiser = FakeDenoiser()
    summary = run(tmp_path, denoiser=denoiser)
    assert denoiser.units == {None}  # a batch alone is not checked: it may be of few slices
    assert set(summary["broken"]) == {f"stored/{i}.dcm" for i in (1, 2, 3)}
    assert summary["broken"]["stored/2.dcm"].startswith("its series has values from ")
    assert "they look like HU + 1024" in summary["broken"]["stored/2.dcm"]
    assert files(tmp_path / "out") == ["hu/1.dcm", "hu/2.dcm", "hu/3.dcm", "summary.json"]


def test_a_series_that_was_rescaled_twice_is_broken_and_air_with_padding_is_not(tmp_path):
    for i in range(1, 4):
        hu = stored(20, seed=i) - 1024
        if i == 2:
            hu[60:96, 60:96] = 1500  # bone, 5 % of this slice
        air = np.random.default_rng(i).integers(-1050, -950, hu.shape)
        air[:40] = -2000  # padding without its tag
        for name, series, values, intercept in (("twice", SERIES, hu, -1024),
                                                ("air", SECOND_SERIES, air, 0)):
            write(tmp_path / "in" / name / f"{i}.dcm", instance=i, position=(0, 0, 3 * i),
                  stored=values, series=series, bits=16, signed=True, intercept=intercept)
    summary = run(tmp_path)
    assert set(summary["broken"]) == {f"twice/{i}.dcm" for i in (1, 2, 3)}
    assert "they look like HU that were rescaled twice" in summary["broken"]["twice/2.dcm"]


def test_a_note_on_the_values_of_a_series_is_told_once(tmp_path):
    for i in range(1, 4):
        values = ramp()
        values[:3] = 63536
        write(tmp_path / "in" / f"{i}.dcm", instance=i, position=(0, 0, 3 * i), stored=values,
              bits=16)
    (series,) = run(tmp_path)["series"]
    assert series["notes"] == ["padding below 0 in unsigned pixels, at the border: taken as "
                               "outside the field of view"]


def test_padding_does_not_hide_a_series_that_is_not_in_hu(tmp_path):
    stored = np.maximum(noisy_disc(20, seed=0) + 1024, 0)
    corners = stored.copy()
    corners[:8, :8] = 0
    for folder, padding in (("a", None), ("b", 0)):
        write(tmp_path / "in" / folder / "1.dcm", intercept=0, stored=corners,
              series=f"{SERIES}.{padding is None:d}",
              **({} if padding is None else {"PixelPaddingValue": padding}))
    slices(tmp_path / "in" / "sound", 2)
    summary = run(tmp_path)
    assert summary["slices"] == 2
    assert list(summary["broken"]) == ["a/1.dcm", "b/1.dcm"]
    assert all("which cannot be HU" in why for why in summary["broken"].values())


def test_slices_written_before_are_measured_in_their_files(tmp_path):
    for i in range(1, 4):
        write(tmp_path / "in" / f"{i}.dcm", instance=i, position=(0, 0, 3 * i),
              stored=stored(20, seed=i), PixelSpacing=[0.8, 0.8])
    (expected,) = run(tmp_path)["series"]
    (tmp_path / "out").rename(tmp_path / "out.incomplete")
    summary = run(tmp_path)
    assert summary["written_before"] == 3
    assert summary["series"] == [expected]
    assert expected["soft_tissue_shift_hu"] == 5


def test_slices_without_a_pixel_pitch_are_not_measured(tmp_path):
    slices(tmp_path / "in", 2, PixelSpacing=None)
    (series,) = run(tmp_path, denoiser=FakeDenoiser(KNOWN))["series"]
    assert series["outside_training"] == []
    assert {series[name] for name in ("noise_before_hu", "noise_after_hu", "kernel_lp_cm",
                                      "pixel_spacing_mm", "soft_tissue_shift_hu")} == {None}


def test_links_to_folders_are_denoised_and_skipped_links_are_named(tmp_path, capsys):
    slices(tmp_path / "store" / "S1", 2)
    slices(tmp_path / "in", 1, series=SECOND_SERIES)
    (tmp_path / "in" / "P1").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "up").symlink_to("..")
    summary = run(tmp_path)
    assert files(tmp_path / "out") == ["01.dcm", "P1/S1/01.dcm", "P1/S1/02.dcm", "summary.json"]
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert files(tmp_path / "store") == ["S1/01.dcm", "S1/02.dcm"]
    why = f"a link to {tmp_path}, a folder that it lies in"
    assert summary["skipped"] == {"up": why}
    assert f"skipped: {tmp_path / 'in' / 'up'}: {why}\n" in capsys.readouterr().err


def test_a_link_to_nothing_is_broken_and_named(tmp_path, capsys):
    slices(tmp_path / "in", 1)
    (tmp_path / "in" / "P2").symlink_to("/nowhere/P2")
    summary = run(tmp_path)
    assert summary["broken"] == {"P2": "a link to /nowhere/P2, which leads to no file"}
    assert f"skipped: {tmp_path / 'in' / 'P2'}: a link to /nowhere/P2" in capsys.readouterr().err


def test_an_output_within_a_linked_folder_is_refused(tmp_path):
    slices(tmp_path / "store", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "P1").symlink_to(tmp_path / "store")
    with pytest.raises(InputError, match=r"out: lies within .*store, which a link in the input"):
        denoise_tree(FakeDenoiser(), derivation=DERIVATION, source=tmp_path / "in",
                     output=tmp_path / "store" / "out")
    assert files(tmp_path / "store") == ["01.dcm"]
