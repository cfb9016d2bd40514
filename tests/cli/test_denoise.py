import contextlib
import functools
import json
import re
import resource

import nibabel
import numpy as np
import pytest

from dfgan_jax.cli import denoise
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import read_pairs, write_pairs
from dfgan_jax.denoising import denoiser
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.scans import dicom, hounsfield
from dfgan_jax.support.errors import InputError
from tests.cli import command
from tests.porting.test_cnn10_layout import cnn10
from tests.porting.test_weights import generator, save
from tests.scans import dicom_files


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The network that compiles fastest, for what does not depend on it."""
    return save(tmp_path_factory.mktemp("weights") / "gan.pth", cnn10(width=2))


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return save(tmp_path_factory.mktemp("unet") / "gan.pth", generator())


@pytest.fixture(autouse=True)
def load_once(monkeypatch):
    monkeypatch.setattr(Denoiser, "load", _load_once)


_load_once = functools.cache(Denoiser.load)


def hu(shape):
    return np.random.default_rng(0).normal(0, 300, shape).round()


@pytest.mark.parametrize(("shape", "dtype", "network"), [
    ((32, 48), np.int16, "weights"), ((17, 20, 33), np.float64, "unet"),
    ((1, 16, 16), np.float32, "weights")])
def test_denoises_arrays_as_the_denoiser_does(tmp_path, request, shape, dtype, network):
    weights = request.getfixturevalue(network)
    array = hu(shape).astype(dtype)
    np.save(tmp_path / "in.npy", array)
    denoise.run(checkpoint_path=str(weights), source=tmp_path / "in.npy",
                output=tmp_path / "new" / "out.npy")
    denoised = np.load(tmp_path / "new" / "out.npy", allow_pickle=False)
    assert denoised.dtype == np.float32
    np.testing.assert_array_equal(denoised, Denoiser.load(weights)(array))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.npy"]


@pytest.mark.parametrize(("content", "message"), [
    (hu((2, 2, 16, 16)), r"expected \(H, W\) or \(N, H, W\)"),
    (hu((0, 16, 16)), r"expected \(H, W\) or \(N, H, W\)"),
    (np.float32(3), r"expected \(H, W\) or \(N, H, W\)"),
    (np.array(["a"]), "an array of numbers in HU"),
    (np.array({"f_qd": 1}), "has no key 'f_nd'"),
    (np.where(np.arange(3)[:, None, None] == 1, np.nan, hu((3, 16, 16))),
     "a NaN or an infinity in 1 of 3 slices: slice 1; nothing was written"),
    (np.where(np.arange(40)[:, None, None] % 2, np.inf, np.float32(3)) + np.zeros((40, 16, 16)),
     r"a NaN or an infinity in 20 of 40 slices: slice 1, 3, .*, 39; nothing"),
])
def test_arrays_that_cannot_be_denoised_are_named(tmp_path, weights, content, message):
    path = tmp_path / "in.npy"
    np.save(path, content)
    with pytest.raises(InputError, match=rf"in\.npy: .*{message}"):
        denoise.run(checkpoint_path=str(weights), source=path, output=tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    assert not list(tmp_path.glob(".out*"))


def test_an_output_that_is_not_finite_is_no_result(tmp_path):
    huge = {key: array * np.float32(1e30) for key, array in cnn10().items()
            if array.dtype == np.float32}
    np.save(tmp_path / "in.npy", hu((16, 16)))
    with pytest.raises(InputError, match=r"gan\.pth: its output is not finite"):
        denoise.run(checkpoint_path=str(save(tmp_path / "gan.pth", huge)),
                    source=tmp_path / "in.npy", output=tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


def make_array(path):
    np.save(path, hu((3, 16, 16)))


def make_pairs(path):
    ndct = hounsfield.hu_to_mu(hu((3, 20, 33)).astype(np.float32))
    write_pairs(path, Pairs(ndct, ndct[::-1].copy()))


def make_volume(path, *, thickness=2):
    nibabel.save(nibabel.Nifti1Image(hu((33, 20, 3)).astype(np.int16),
                                     np.diag([-1, -1, thickness, 1])), path)


KINDS = {"in.npy": make_array, "pairs.npy": make_pairs, "in.nii": make_volume,
         "in.nii.gz": make_volume, "in.dcm": dicom_files.write, "IM0001": dicom_files.write}


def run(tmp_path, weights, name, output=None):
    denoise.run(checkpoint_path=str(weights), source=tmp_path / name,
                output=tmp_path / (output or f"out_{name}"))
    return tmp_path / (output or f"out_{name}")


@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_of_the_same_kind_and_never_overwritten(tmp_path, weights, name):
    KINDS[name](tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match="exists"):
        run(tmp_path, weights, name, name)
    others = {".npy", ".nii.gz", ".x"} - {"".join((tmp_path / name).suffixes)}
    for suffix in others - ({".x"} if KINDS[name] == dicom_files.write else {".nii.gz"}):
        with pytest.raises(InputError, match=rf"out\{suffix}: expected a name"):
            run(tmp_path, weights, name, f"out{suffix}")
    assert (tmp_path / name).read_bytes() == before
    output = run(tmp_path, weights, name, f"new/a_{name}")
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_of_pairs_the_quarter_dose_is_denoised(tmp_path, weights, monkeypatch):
    make_pairs(tmp_path / "in.npy")
    monkeypatch.setattr(denoiser, "MAX_BATCH_PIXELS_ON_CPU", 2 * 20 * 33)
    written = read_pairs(run(tmp_path, weights, "in.npy"))
    source = read_pairs(tmp_path / "in.npy")
    np.testing.assert_array_equal(written.ndct, source.ndct)
    denoised = Denoiser.load(weights)(hounsfield.mu_to_hu(np.asarray(source.qdct)))
    np.testing.assert_allclose(hounsfield.mu_to_hu(np.asarray(written.qdct)), denoised, atol=1e-2)
    assert np.abs(denoised - hounsfield.mu_to_hu(np.asarray(source.qdct))).max() > 1


@pytest.mark.parametrize("name", ["in.nii", "in.nii.gz"])
@pytest.mark.parametrize(("dtype", "slope", "intercept"), [
    (np.int16, None, None), (np.uint16, 0.5, -1000), (np.float32, 2, -510)])
def test_volumes_keep_their_type_scale_and_place(tmp_path, weights, monkeypatch, name, dtype,
                                                 slope, intercept):
    monkeypatch.setattr(denoiser, "MAX_BATCH_PIXELS_ON_CPU", 2 * 20 * 33)
    where = np.array([[0, 0.7, 0, 3], [0.8, 0, 0, -5], [0, 0, -3, 9], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(np.abs(hu((20, 33, 5))).astype(dtype), where)
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, tmp_path / name)
    written = nibabel.load(run(tmp_path, weights, name))
    source = nibabel.load(tmp_path / name)
    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(written.affine, source.affine)
    assert re.match(rb"[0-9a-f]{12} denoised by CNN-10 ", bytes(written.header["descrip"]))
    scale = slope or 1
    # As they lie in CT: x to the left, y to the back.
    slices = source.get_fdata()[::-1, ::-1, ::-1].transpose(2, 0, 1)
    denoised = Denoiser.load(weights)(slices.astype(np.float32))
    ours = written.get_fdata()[::-1, ::-1, ::-1].transpose(2, 0, 1)
    assert np.abs(ours - denoised).max() <= (scale * 0.5001 if dtype != np.float32 else 1e-3)


def test_of_volumes_what_the_type_cannot_hold_is_counted(tmp_path, weights, capsys):
    stored = np.zeros((16, 16, 2), np.uint8)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "in.nii")
    written = nibabel.load(run(tmp_path, weights, "in.nii")).get_fdata()
    denoised = Denoiser.load(weights)(stored.T)
    beyond = ((np.rint(denoised) < 0) | (np.rint(denoised) > 255)).sum()
    assert beyond
    assert f"2 slices of 16×16; {beyond} pixels beyond the stored range" in capsys.readouterr().out
    np.testing.assert_array_equal(written, np.clip(np.rint(denoised), 0, 255).T)


def test_a_volume_with_a_nan_is_refused(tmp_path, weights):
    volume = np.zeros((16, 16, 4), np.float32)
    volume[3, 4, 2] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1, -1, 1, 1])), tmp_path / "in.nii")
    message = r"in\.nii: a NaN or an infinity in 1 of 4 slices: slice 2; nothing"
    with pytest.raises(InputError, match=message):
        run(tmp_path, weights, "in.nii")
    assert [path.name for path in tmp_path.iterdir()
            if path.suffix != ".pth"] == ["in.nii"]


@pytest.mark.parametrize("name", ["in.dcm", "IM0001"])
def test_a_dicom_file_is_denoised(tmp_path, weights, capsys, name):
    dicom_files.write(tmp_path / name)
    source, written = (dicom.read_slice(path) for path in (
        tmp_path / name, run(tmp_path, weights, name)))
    np.testing.assert_array_equal(
        written.stored, np.clip(np.rint(Denoiser.load(weights)(source.hu) + 1024), 0, 4095))
    assert Denoiser.load(weights).weights_sha256 in written.dataset.DerivationDescription
    assert "1 slice of 16×20; " in capsys.readouterr().out


def test_a_folder_is_denoised_and_its_broken_slices_are_told(tmp_path, weights, capsys):
    for i in range(1, 4):
        dicom_files.write(tmp_path / "in" / f"{i}.dcm", instance=i, position=(0, 0, 3 * i))
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in" / name).write_text("notes")
    output = run(tmp_path, weights, "in")
    told = capsys.readouterr().out
    assert "3 slices in 1 series by " in told
    assert "Skipped 2: not a DICOM file (a.txt, …)" in told
    (tmp_path / "in" / "2.dcm").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"1 broken file not denoised, the first 2\.dcm: "):
        run(tmp_path, weights, "in", "second")
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [
        "1.dcm", "3.dcm", "summary.json"]
    assert (output / "1.dcm").read_bytes()[-640:] == (tmp_path / "second" / "1.dcm"
                                                      ).read_bytes()[-640:]
    assert json.loads((tmp_path / "second" / "summary.json").read_text())["weights_sha256"] == (
        Denoiser.load(weights).weights_sha256)


@pytest.fixture
def folder(tmp_path):
    """Two volumes of 3 slices and a DICOM file."""
    folder = tmp_path / "in"
    (folder / "p").mkdir(parents=True)
    make_volume(folder / "a.nii.gz")
    make_volume(folder / "p" / "b.nii")
    dicom_files.write(folder / "p" / "1.dcm")
    return folder


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def summary_of(output):
    return json.loads((output / "summary.json").read_text())


def test_each_volume_of_a_folder_is_denoised_as_it_is_alone(tmp_path, weights, folder, capsys):
    (folder / "._a.nii.gz").write_bytes(bytes(200))  # as macOS leaves it
    (folder / "c.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"1 broken file not denoised, the first c\.nii\.gz: no "):
        run(tmp_path, weights, "in", "out")
    assert names(tmp_path / "out") == ["a.nii.gz", "p/1.dcm", "p/b.nii", "summary.json"]
    assert "7 slices in 1 series and 2 volumes by " in capsys.readouterr().out
    for name in ("a.nii.gz", "p/b.nii"):
        alone = nibabel.load(run(tmp_path, weights, f"in/{name}", f"alone/{name}"))
        written = nibabel.load(tmp_path / "out" / name)
        np.testing.assert_array_equal(written.get_fdata(), alone.get_fdata())
        assert written.header == alone.header
    summary = summary_of(tmp_path / "out")
    assert [(each["file"], each["slices"]) for each in summary["volumes"]] == [
        ("a.nii.gz", 3), ("p/b.nii", 3)]
    assert (list(summary["broken"]), summary["skipped"]) == (
        ["c.nii.gz"], {"._a.nii.gz": "not a DICOM file"})


def test_volumes_written_before_are_not_denoised_again(tmp_path, weights, folder, monkeypatch,
                                                       capsys):
    expected = summary_of(run(tmp_path, weights, "in", "whole"))
    denoise_nifti = denoise.denoise_nifti

    def interrupted(denoiser, source, output, *, unit):
        if output.name == "b.nii":
            raise KeyboardInterrupt
        return denoise_nifti(denoiser, source, output, unit=unit)

    with monkeypatch.context() as patched:
        patched.setattr(denoise, "denoise_nifti", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, weights, "in", "out")
    assert "1 of 1 slice and 1 of 2 volumes in " in capsys.readouterr().err
    incomplete = tmp_path / "out.incomplete"
    assert names(incomplete) == ["a.nii.gz", "p/1.dcm"]
    leftover = incomplete / "p" / f".b.nii.{'0' * 16}"  # of a killed process
    leftover.mkdir()
    (leftover / "unpacked.nii").touch()
    time = (incomplete / "a.nii.gz").stat().st_mtime_ns
    output = run(tmp_path, weights, "in", "out")
    assert (output / "a.nii.gz").stat().st_mtime_ns == time
    assert names(output) == ["a.nii.gz", "p/1.dcm", "p/b.nii", "summary.json"]
    summary = summary_of(output)
    assert (summary["written_before"], summary["slices"]) == (4, 7)
    measured = [{**each, "saturated_pixels": 0} for each in expected["volumes"]]
    assert [{**each, "saturated_pixels": 0} for each in summary["volumes"]] == measured
    assert measured[0]["pixel_spacing_mm"] == 1


def test_volumes_of_another_strength_or_input_are_not_taken_for_written(tmp_path, weights, folder):
    (folder / "p" / "1.dcm").unlink()
    run(tmp_path, weights, "in", "out").rename(tmp_path / "out.incomplete")
    again = functools.partial(denoise.run, checkpoint_path=str(weights), source=folder,
                              output=tmp_path / "out")
    with pytest.raises(InputError, match=r"a\.nii\.gz( and 1 more)?: not made from this input"):
        again(strength=0.5)
    make_volume(folder / "p" / "b.nii", thickness=3)
    with pytest.raises(InputError, match=r"b\.nii( and 1 more)?: not made from this input"):
        again()


def test_units_of_the_volumes_of_a_folder_are_refused_or_taken_by_a_flag(tmp_path, weights):
    array, values, scale, offset = scaled("mu")
    (tmp_path / "in").mkdir()
    save_array(tmp_path / "in" / "a.nii", values)
    options = {"checkpoint_path": str(weights), "source": tmp_path / "in"}
    with pytest.raises(InputError, match=r"no slice could be denoised; broken: .*a\.nii: has "
                                         r"values from .*--input_unit=mu converts them"):
        denoise.run(**options, output=tmp_path / "out")
    with pytest.raises(InputError, match=r"--axes=hwn: .*in is a folder, whose files name their"):
        denoise.run(**options, output=tmp_path / "out", axes="hwn")
    with pytest.raises(InputError, match=r"out\.nii: expected the name of a folder, as .*in is"):
        denoise.run(**options, output=tmp_path / "out.nii")
    denoise.run(**options, output=tmp_path / "new", unit="mu", report=tmp_path / "r.html")
    written = load_array(tmp_path / "new" / "a.nii")
    np.testing.assert_allclose((written - offset) / scale, Denoiser.load(weights)(array), atol=0.1)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(json.loads(re.search(r'id="viewer-data">(.*?)</script>', page).group(1))[
        "slices"]) == 2
    dicom_files.write(tmp_path / "dicom" / "1.dcm")
    with pytest.raises(InputError, match=r"--input_unit=mu: .*dicom is DICOM, whose headers give"):
        denoise.run(checkpoint_path=str(weights), source=tmp_path / "dicom",
                    output=tmp_path / "out", unit="mu")


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: None, "no such file or folder"),
    (lambda path: path.mkdir(), "no CT slice or NIfTI volume among 0 files"),
    (lambda path: path.write_text("notes"), "not a DICOM file"),
    (lambda path: dicom_files.write(path, RescaleSlope=None), "no rescale slope"),
])
def test_what_is_no_input_is_named(tmp_path, weights, make, message):
    make(tmp_path / "in")
    with pytest.raises(InputError, match=f"in: {message}"):
        run(tmp_path, weights, "in")
    assert not list(tmp_path.glob("*out*"))


@contextlib.contextmanager
def files_of_at_most(size):
    """What is written beyond fails, as on a full disk: Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", [*KINDS, "in"])
def test_on_a_full_disk_nothing_looks_complete(tmp_path, weights, name):
    if name == "in":
        dicom_files.write(tmp_path / "in" / "a" / "1.dcm")
    else:
        KINDS[name](tmp_path / name)
    run(tmp_path, weights, name, f"before/{name}")  # so that all is compiled
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        run(tmp_path, weights, name, f"after/{name}")
    left = list((tmp_path / "after").rglob("*"))
    assert [path for path in left if path.is_file()] == []
    assert [path.name for path in left] == (["in.incomplete", "a"] if name == "in" else [])


def test_the_command_line_denoises(tmp_path, unet):
    np.save(tmp_path / "in.npy", hu((3, 16, 16)))
    options = ["--mode=denoise", f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'o.npy'}"]
    done = command.run(*options, f"--checkpoint={unet}")
    assert done.returncode == 0, done.stderr
    assert "3 slices of 16×16" in done.stdout
    assert np.load(tmp_path / "o.npy").shape == (3, 16, 16)
    done = command.run(*options, f"--checkpoint={unet}", "--input=b")
    assert done.returncode == 1
    assert "needs one --input=PATH; 2" in done.stderr


def test_strength_is_taken_from_the_command_line(tmp_path, weights):
    array = hu((2, 16, 16)).astype(np.float32)
    np.save(tmp_path / "in.npy", array)
    options = ["--mode=denoise", f"--checkpoint={weights}", f"--input={tmp_path / 'in.npy'}",
               f"--output={tmp_path / 'out.npy'}"]
    refused = command.run(*options, "--strength=2")
    assert refused.returncode == 1
    assert "strength is 2.0; expected 0 to 1.5" in refused.stderr
    assert not (tmp_path / "out.npy").exists()
    done = command.run(*options, "--strength=0.5")
    assert done.returncode == 0, done.stderr
    halfway = (array + Denoiser.load(weights)(array)) / 2
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), halfway, atol=1e-2)


def test_a_known_dose_gives_the_strength(tmp_path, weights):
    array = hu((2, 16, 16)).astype(np.float32)
    np.save(tmp_path / "in.npy", array)
    options = ["--mode=denoise", f"--checkpoint={weights}", f"--input={tmp_path / 'in.npy'}",
               f"--output={tmp_path / 'out.npy'}"]
    for wrong, message in [
            (["--dose_fraction=0.1..0.5"], "--dose_fraction is '0.1..0.5'; expected a number"),
            (["--dose_fraction=0.5", "--strength=1"], "expected one of them")]:
        refused = command.run(*options, *wrong)
        assert refused.returncode == 1
        assert message in refused.stderr
    assert not (tmp_path / "out.npy").exists()
    done = command.run(*options, "--dose_fraction=0.5")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"),
                               Denoiser.load(weights, strength=2 / 3)(array), atol=1e-2)


def test_a_self_ensemble_is_taken_from_the_command_line(tmp_path, weights):
    array = hu((2, 16, 16)).astype(np.float32)
    np.save(tmp_path / "in.npy", array)
    done = command.run("--mode=denoise", f"--checkpoint={weights}", "--self_ensemble",
                       f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'out.npy'}")
    assert done.returncode == 0, done.stderr
    expected = Denoiser.load(weights, self_ensemble=True)(array)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-2)
    assert np.abs(expected - Denoiser.load(weights)(array)).max() > 0.1


@pytest.mark.parametrize("name", KINDS)
def test_a_report_shows_what_was_read_and_what_was_written(tmp_path, weights, capsys, name):
    KINDS[name](tmp_path / name)
    denoise.run(checkpoint_path=str(weights), source=tmp_path / name,
                output=tmp_path / f"out_{name}", report=tmp_path / "new.html")
    assert f"Report: {tmp_path / 'new.html'}" in capsys.readouterr().out
    page = (tmp_path / "new.html").read_text(encoding="utf-8")
    assert Denoiser.load(weights).weights_sha256 in page
    data = json.loads(re.search(r'id="viewer-data">(.*?)</script>', page).group(1))
    assert (data["rows"], data["reference"]) == (["Input", "Denoised"], None)
    assert len(data["slices"]) == {"in.npy": 3, "pairs.npy": 3, "in.nii": 3, "in.nii.gz": 3}.get(
        name, 1)


@pytest.mark.parametrize("name", ["in.npy", "in.nii"])
def test_the_folder_of_a_report_is_made(tmp_path, weights, name):
    KINDS[name](tmp_path / name)
    denoise.run(checkpoint_path=str(weights), source=tmp_path / name,
                output=tmp_path / f"out_{name}", report=tmp_path / "new" / "r.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.html"]


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, weights):
    make_array(tmp_path / "in.npy")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is no folder"):
        denoise.run(checkpoint_path=str(weights), source=tmp_path / "in.npy",
                    output=tmp_path / "out.npy", report=tmp_path / "file" / "r.html")
    assert not (tmp_path / "out.npy").exists()


def test_a_volume_of_8_bits_is_a_picture(tmp_path, weights):
    picture = np.arange(3 * 20 * 33, dtype=np.uint8).reshape(33, 20, 3)
    nibabel.save(nibabel.Nifti1Image(picture, np.eye(4)), tmp_path / "in.nii")
    with pytest.raises(InputError, match=r"in\.nii: .*they look like a picture of a window"):
        run(tmp_path, weights, "in.nii")


def test_a_dicom_file_that_is_not_in_hu_is_refused_without_a_flag_that_would_be(tmp_path, weights):
    stored = np.random.default_rng(0).normal(1064, 20, (16, 20)).round().astype(int)
    stored[0, :4] = 0  # padding, which is air whatever the others are
    dicom_files.write(tmp_path / "in.dcm", stored=stored, intercept=0)
    with pytest.raises(InputError, match=r"in\.dcm: .*they look like HU \+ 1024") as caught:
        run(tmp_path, weights, "in.dcm")
    assert "--input_unit" not in str(caught.value)


def test_of_a_folder_the_largest_series_is_reported(tmp_path, weights):
    for series, count in (("1.2.3", 2), ("1.2.4", 35)):
        for i in range(1, count + 1):
            dicom_files.write(tmp_path / "in" / series / f"{i:02}.dcm", instance=i, series=series,
                              position=(0, 0, 3 * i), SeriesDescription=f"of {count}")
    denoise.run(checkpoint_path=str(weights), source=tmp_path / "in", output=tmp_path / "out",
                report=tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="viewer-data">(.*?)</script>', page).group(1))
    assert len(data["slices"]) == 30
    assert (data["slices"][0], data["slices"][-1]) == ("3 mm, 01.dcm", "105 mm, 35.dcm")
    assert "Slices of the largest series: of 35." in page


def test_a_report_is_not_overwritten_and_is_html(tmp_path, weights):
    make_array(tmp_path / "in.npy")
    (tmp_path / "r.html").write_text("mine")
    for report, message in (("r.html", "exists"), ("r.pdf", r"name that ends in \.html")):
        with pytest.raises(InputError, match=message):
            denoise.run(checkpoint_path=str(weights), source=tmp_path / "in.npy",
                        output=tmp_path / "out.npy", report=tmp_path / report)
    assert not (tmp_path / "out.npy").exists()


def scaled(unit):
    """(2, 16, 16) float32 HU, and the same in a unit."""
    array = np.clip(hu((2, 16, 16)), -1000, None).astype(np.float32)
    scale, offset = {"mu": (0.0192 / 1000, 0.0192), "redcnn": (1 / 4096, 0.25),
                     "dfgan": (1 / 500, 1.0)}[unit]
    return array, array * np.float32(scale) + np.float32(offset), scale, offset


def save_array(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        nibabel.save(nibabel.Nifti1Image(array.T, np.diag([-1, -1, 2, 1])), path)


def load_array(path):
    return np.load(path) if path.suffix == ".npy" else nibabel.load(path).get_fdata().T


@pytest.mark.parametrize("unit", ["mu", "redcnn", "dfgan"])
@pytest.mark.parametrize("name", ["in.npy", "in.nii"])
def test_other_units_are_refused_or_taken_by_a_flag(tmp_path, weights, name, unit):
    array, values, scale, offset = scaled(unit)
    save_array(tmp_path / name, values)
    options = {"checkpoint_path": str(weights), "source": tmp_path / name}
    with pytest.raises(InputError, match=rf"{name}: has values from .*which cannot be HU.*"
                                         rf"--input_unit={unit} converts them") as caught:
        denoise.run(**options, output=tmp_path / f"out_{name}")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {name}
    denoise.run(**options, output=tmp_path / f"out_{name}", unit=unit,
                report=tmp_path / "report.html")
    written = load_array(tmp_path / f"out_{name}")
    np.testing.assert_allclose((written - offset) / scale, Denoiser.load(weights)(array), atol=0.1)
    denoise.run(**options, output=tmp_path / f"hu_{name}", unit="hu")  # as it was before
    np.testing.assert_allclose(load_array(tmp_path / f"hu_{name}"),
                               Denoiser.load(weights)(values, unit=None), atol=1e-3)


@pytest.mark.parametrize("name", ["in.npy", "in.nii"])
def test_a_wrong_unit_is_named_and_nothing_is_written(tmp_path, weights, name):
    save_array(tmp_path / name, scaled("mu")[0])
    with pytest.raises(InputError, match=rf"{name}: has values from .*in 1/mm.*are they HU"):
        denoise.run(checkpoint_path=str(weights), source=tmp_path / name,
                    output=tmp_path / f"out_{name}", unit="mu")
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_slices_last_are_refused_or_taken_by_a_flag(tmp_path, weights):
    array = hu((3, 32, 20)).astype(np.int16)
    np.save(tmp_path / "in.npy", np.moveaxis(array, 0, -1))
    options = {"checkpoint_path": str(weights), "source": tmp_path / "in.npy",
               "output": tmp_path / "out.npy"}
    with pytest.raises(InputError, match=r"in\.npy: has shape \(32, 20, 3\);.*--axes=hwn reads it "
                                         "so, --axes=nhw as it is"):
        denoise.run(**options)
    denoise.run(**options, axes="hwn", report=tmp_path / "report.html")
    written = np.load(tmp_path / "out.npy")
    assert written.shape == (32, 20, 3)
    np.testing.assert_array_equal(np.moveaxis(written, -1, 0), Denoiser.load(weights)(array))


@pytest.mark.parametrize(("name", "options", "message"), [
    ("pairs.npy", {"unit": "hu"}, "--input_unit=hu: .*pairs.npy is a file of pairs in 1/mm"),
    ("pairs.npy", {"axes": "nhw"}, "--axes=nhw: .*pairs.npy is a file of pairs"),
    ("in.nii", {"axes": "hwn"}, "--axes=hwn: .*in.nii is a volume, whose header names its axes"),
    ("in.dcm", {"unit": "mu"}, "--input_unit=mu: .*in.dcm is DICOM, whose headers give the unit"),
    ("IM0001", {"axes": "hwn"}, "--axes=hwn: .*IM0001 is DICOM")])
def test_flags_for_arrays_are_refused_of_other_inputs(tmp_path, weights, name, options, message):
    KINDS[name](tmp_path / name)
    with pytest.raises(InputError, match=message):
        denoise.run(checkpoint_path=str(weights), source=tmp_path / name,
                    output=tmp_path / f"out_{name}", **options)


def test_the_flags_reach_the_mode(tmp_path, weights):
    array, values, scale, offset = scaled("redcnn")
    np.save(tmp_path / "in.npy", np.moveaxis(values, 0, -1))
    options = ["--mode=denoise", f"--checkpoint={weights}", f"--input={tmp_path / 'in.npy'}",
               f"--output={tmp_path / 'out.npy'}", "--axes=hwn"]
    refused = command.run(*options)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert "--input_unit=redcnn converts them" in refused.stderr
    done = command.run(*options, "--input_unit=redcnn")
    assert done.returncode == 0, done.stderr
    written = np.moveaxis(np.load(tmp_path / "out.npy"), -1, 0)
    np.testing.assert_allclose((written - offset) / scale, Denoiser.load(weights)(array), atol=0.1)
