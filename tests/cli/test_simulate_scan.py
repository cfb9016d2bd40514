import csv

import nibabel
import numpy as np
import pytest

from dfgan_jax.cli import simulate_scan
from dfgan_jax.scans import hounsfield
from dfgan_jax.simulation.noise_insertion import insert_noise
from dfgan_jax.support.errors import InputError
from tests.cli import command
from tests.scans import dicom_files

SPACING_MM = 0.8


def scanned_disc(photons_per_ray, *, size=96, seed=0):
    """A disc of water with the noise of a full dose; whole HU, nowhere below −1024."""
    offsets = (np.arange(size) - size / 2) * SPACING_MM
    disc = np.where(np.hypot(offsets, offsets[:, None]) < 34, 0, -1000).astype(np.float32)
    # What is added to come down to one half is as much as the full dose has.
    noise = insert_noise(np.random.default_rng(seed), disc, pixel_spacing_mm=SPACING_MM,
                         dose_fraction=0.5, kernel="soft", photons_per_ray=photons_per_ray,
                         electronic_noise_std=0.0) - disc
    return np.rint(np.maximum(disc + noise, -1024))


def run_scan(*sources, output, **options):
    defaults = {"dose_fraction": 0.25, "kernel": "soft", "refilter": None,
                "photons_per_ray": None, "pixel_spacing_mm": SPACING_MM, "seed": 0, "split": None,
                "patients": "id"}
    simulate_scan.run([[source] for source in sources], output=output, **defaults | options)
    path = output if output.suffix else output / "train.npy"
    content = np.load(path, allow_pickle=True).item()
    ndct, qdct = (np.moveaxis(hounsfield.mu_to_hu(content[key]), -1, 0)
                  for key in ("f_nd", "f_qd"))
    return ndct, qdct


@pytest.fixture
def array(tmp_path):
    path = tmp_path / "full.npy"
    np.save(path, np.stack([scanned_disc(1e6, seed=seed) for seed in range(2)]))
    return path


def manifest(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_scan_gives_pairs_of_its_own_dose_and_a_lower_one(tmp_path, array):
    ndct, qdct = run_scan(array, output=tmp_path / "pairs.npy")
    np.testing.assert_allclose(ndct, np.load(array), atol=1e-3)
    first, second = (qdct - ndct)[:, 20:-20, 20:-20]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3
    core = np.hypot(*(np.mgrid[:96, :96] - 48) * SPACING_MM) < 12
    # Four times the variance at a quarter of the dose, of which one is there.
    full = ndct[:, core].std()
    assert (qdct - ndct)[:, core].std() == pytest.approx(3 ** 0.5 * full, rel=0.25)
    assert qdct.min() == pytest.approx(-1024, abs=1e-3)
    np.testing.assert_allclose(qdct, np.rint(qdct), atol=1e-3)
    rows = manifest(tmp_path / "pairs.manifest.csv")
    assert [row["ndct_file"] for row in rows] == [f"{array}: slice {index}" for index in (0, 1)]
    assert {row["measured_in"] for row in rows} == {"slice"}
    assert {float(row["pixel_spacing_mm"]) for row in rows} == {SPACING_MM}
    assert all(0.5e6 < float(row["photons_per_ray"]) < 2e6 for row in rows)


def test_padding_gets_no_noise(tmp_path, array):
    slices = np.load(array)
    slices[:, :10] = -3024
    np.save(array, slices)
    ndct, qdct = run_scan(array, output=tmp_path / "pairs.npy")
    np.testing.assert_allclose(ndct[:, :10], -1024, atol=1e-3)
    np.testing.assert_allclose(qdct[:, :10], -1024, atol=1e-3)
    assert (qdct - ndct)[:, 10:].std() > 5


def test_the_seed_alone_changes_the_noise(tmp_path, array):
    _, first = run_scan(array, output=tmp_path / "a.npy")
    _, again = run_scan(array, output=tmp_path / "b.npy")
    _, other = run_scan(array, output=tmp_path / "c.npy", seed=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_slice_without_tissue_takes_the_noise_of_its_series(tmp_path, array):
    slices = np.load(array)
    slices[1] = np.random.default_rng(0).normal(-1000, 5, slices[1].shape)
    np.save(array, slices)
    run_scan(array, output=tmp_path / "pairs.npy")
    first, second = manifest(tmp_path / "pairs.manifest.csv")
    assert (first["measured_in"], second["measured_in"]) == ("slice", "series")
    assert first["photons_per_ray"] == second["photons_per_ray"]


def test_a_series_without_tissue_is_left_out_and_the_others_stay(tmp_path, array):
    np.save(tmp_path / "air.npy", np.random.default_rng(0).normal(-1000, 5, (1, 96, 96)))
    with pytest.raises(InputError, match=r"1 slice left out, the first .*air\.npy: slice 0: "
                                         r"the slice has 0 regions of soft tissue .*; expected at "
                                         r"least \d+, and no other slice of its series shows its "
                                         r"noise: --full_dose_photons_per_ray and --kernel give it"
                                         "; all others are written"):
        run_scan(tmp_path / "air.npy", array, output=tmp_path / "pairs.npy")
    assert len(manifest(tmp_path / "pairs.manifest.csv")) == 2
    run_scan(tmp_path / "air.npy", output=tmp_path / "given.npy", photons_per_ray=1e6)
    (row,) = manifest(tmp_path / "given.manifest.csv")
    assert (row["measured_in"], float(row["photons_per_ray"])) == ("command line", 1e6)


def test_patients_with_files_of_one_name_get_noise_of_their_own(tmp_path, array):
    names = [tmp_path / patient / "ct.npy" for patient in ("p1", "p2")]
    for number, name in enumerate(names):
        name.parent.mkdir()
        np.save(name, np.load(array)[number])
    ndct, qdct = run_scan(*names, output=tmp_path / "pairs.npy", patients="folder")
    first, second = (qdct - ndct)[:, 20:-20, 20:-20]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3
    assert [row["patient"] for row in manifest(tmp_path / "pairs.manifest.csv")] == ["p1", "p2"]


def test_thin_slices_have_the_electronic_noise_of_fewer_detector_rows(tmp_path, monkeypatch):
    used = []

    def recorded(function):
        def record(*arguments, **options):
            used.append(options["electronic_noise_std"])
            return function(*arguments, **options)
        return record

    for name in ("estimate_noise", "insert_noise"):
        monkeypatch.setattr(simulate_scan, name, recorded(getattr(simulate_scan, name)))
    for thickness, expected in ((3.0, 31.0), (0.75, 15.5), (None, 31.0), (-1.0, 31.0)):
        stored = scanned_disc(1e6) + 1024
        path = tmp_path / str(thickness) / "0.dcm"
        dicom_files.write(path, stored=stored, thickness=thickness,
                          PixelSpacing=[SPACING_MM, SPACING_MM])
        run_scan(path.parent, output=path.with_suffix(".npy"), pixel_spacing_mm=None)
        (row,) = manifest(path.with_suffix(".manifest.csv"))
        assert float(row["electronic_noise_std"]) == expected
        assert used == [expected, expected]
        used.clear()


def test_a_scan_that_goes_below_air_somewhere_is_cut_nowhere(tmp_path, array):
    slices = np.load(array)
    slices[0, 0, 0] = -1060
    np.save(array, slices)
    _, qdct = run_scan(array, output=tmp_path / "pairs.npy")
    assert (qdct.min(axis=(1, 2)) < -1030).all()


@pytest.mark.parametrize("order", ["npy", "nii"])
def test_the_order_of_a_volumes_axes_does_not_matter(tmp_path, array, order):
    if order == "npy":
        path = tmp_path / "turned.npy"
        np.save(path, np.asfortranarray(np.load(array)))
    else:
        path = tmp_path / "turned.nii"
        affine = np.array([[0, -0.8, 0, 0], [-0.8, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
        nibabel.Nifti1Image(np.load(array).transpose(1, 2, 0), affine).to_filename(path)
    _, expected = run_scan(array, output=tmp_path / "a.npy")
    _, qdct = run_scan(path, output=tmp_path / "b.npy")
    np.testing.assert_allclose(qdct, expected, atol=1.1)  # the spacing is rounded to float32


def test_blank_slices_are_left_out(tmp_path, array):
    np.save(array, np.concatenate([np.load(array), np.full((1, 96, 96), -1024.0)]))
    with pytest.raises(InputError, match=r"1 slice left out.*slice 2: blank, -1024 HU"):
        run_scan(array, output=tmp_path / "pairs.npy")
    assert len(manifest(tmp_path / "pairs.manifest.csv")) == 2


def test_files_are_patients_and_a_broken_slice_does_not_lose_the_others(tmp_path, array):
    slices = np.load(array)
    slices[1, 3, 3] = np.nan
    np.save(tmp_path / "broken.npy", slices * 0.99)
    image = nibabel.Nifti1Image(np.ascontiguousarray(slices[:1].T * 1.01),
                                np.diag([-SPACING_MM, -SPACING_MM, 2, 1]))
    image.to_filename(tmp_path / "volume.nii.gz")
    with pytest.raises(InputError, match=r"1 slice left out.*broken\.npy: slice 1 has a NaN"):
        run_scan(array, tmp_path / "broken.npy", tmp_path / "volume.nii.gz",
                 output=tmp_path / "out", split="0.4,0.3,0.3")
    rows = manifest(tmp_path / "out" / "manifest.csv")
    assert len(rows) == 4
    assert {(row["patient"], row["split"]) for row in rows} == {
        (row["patient"], row["split"]) for row in {row["patient"]: row for row in rows}.values()}
    assert {row["split"] for row in rows} == {"train", "valid", "test"}


@pytest.fixture
def volumes(tmp_path):
    """A folder of two patients' volumes, and of files of other kinds."""
    paths = [tmp_path / "niis" / name for name in ("p1/a.nii.gz", "p1/s/b.nii", "p2/c.nii.gz")]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(scanned_disc(1e6, seed=seed).T[..., None],
                                    np.diag([-SPACING_MM, -SPACING_MM, 2, 1]))
        image.to_filename(path)
    for name in ("notes.txt", "._c.nii.gz"):  # the latter as macOS leaves it
        (tmp_path / "niis" / "p2" / name).write_bytes(bytes(200))
    return paths


def test_each_volume_of_a_folder_is_a_patient_or_belongs_to_that_of_its_folder(tmp_path, volumes):
    ndct, _ = run_scan(tmp_path / "niis", output=tmp_path / "a.npy", pixel_spacing_mm=None)
    np.testing.assert_allclose(ndct, [scanned_disc(1e6, seed=seed) for seed in range(3)], atol=1e-3)
    assert [row["patient"] for row in manifest(tmp_path / "a.manifest.csv")] == list(
        map(str, volumes))
    run_scan(tmp_path / "niis", output=tmp_path / "b.npy", pixel_spacing_mm=None, patients="folder")
    assert [row["patient"] for row in manifest(tmp_path / "b.manifest.csv")] == ["p1", "p1", "p2"]
    with pytest.raises(InputError, match=r"c\.nii\.gz: lies right in .*p2; expected a folder"):
        run_scan(tmp_path / "niis" / "p2", output=tmp_path / "c.npy", patients="folder")


def test_what_a_killed_command_left_is_no_scan_and_goes(tmp_path, array):
    name = f".pairs.npy.{'0' * 16}"
    image = nibabel.Nifti1Image(np.load(array).transpose(2, 1, 0),
                                np.diag([-SPACING_MM, -SPACING_MM, 3, 1]))
    for path in (f"niis/{name}/unpacked.nii", f"{name}/unpacked.nii", "niis/a.nii.gz"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        image.to_filename(tmp_path / path)
    ndct, _ = run_scan(tmp_path / "niis", output=tmp_path / "pairs.npy", photons_per_ray=1e6,
                       pixel_spacing_mm=None)
    assert len(ndct) == 2
    assert not (tmp_path / name).exists()
    assert (tmp_path / "niis" / name).exists()  # of another output


@pytest.mark.parametrize("name", ["niis", "niis/p1/a.nii.gz", "full.npy"])
def test_volumes_have_no_study(tmp_path, array, volumes, name):
    with pytest.raises(InputError, match=r"--patients=study: .* names no study; expected id"):
        run_scan(tmp_path / name, output=tmp_path / "pairs.npy", patients="study")


def test_a_folder_may_hold_dicom_and_volumes_and_broken_volumes_are_left_out(tmp_path, volumes):
    volumes[0].write_bytes(volumes[0].read_bytes()[:-100])
    dicom_files.write(tmp_path / "niis" / "p3" / "0.dcm", stored=scanned_disc(1e6, seed=9) + 1024,
                      PixelSpacing=[SPACING_MM, SPACING_MM])
    with pytest.raises(InputError, match=r"^1 volume left out, the first .*a\.nii\.gz: no NIfTI "
                                         r"file, or a broken one .*; all others are written"):
        run_scan(tmp_path / "niis", output=tmp_path / "pairs.npy", pixel_spacing_mm=None)
    assert [row["patient"] for row in manifest(tmp_path / "pairs.manifest.csv")] == [
        str(volumes[1]), str(volumes[2]), "patient-1"]
    for broken in volumes[1:]:
        broken.write_bytes(b"")
    with pytest.raises(InputError, match=r"^no slice is left; .*a\.nii\.gz: .*c\.nii\.gz: is em"):
        run_scan(*volumes, output=tmp_path / "second.npy")
    assert not (tmp_path / "second.npy").exists()


def test_flags_of_arrays_are_refused_where_headers_answer_them(tmp_path, volumes):
    with pytest.raises(InputError, match=r"--axes=hwn: .*a\.nii\.gz is a volume, whose header"):
        run_scan(tmp_path / "niis", output=tmp_path / "pairs.npy", axes="hwn")
    ndct, _ = run_scan(tmp_path / "niis", output=tmp_path / "pairs.npy", unit="stored",
                       photons_per_ray=1e6)
    core = np.s_[48, 40:56]  # air would be below the lowest HU
    np.testing.assert_allclose(ndct[0][core], scanned_disc(1e6)[core] - 1024, atol=1e-3)


def test_the_command_line_takes_patterns(tmp_path, volumes):
    done = command.run("--mode=simulate", f"--input={tmp_path}/niis/**/*.nii.gz", "--kernel=soft",
                       f"--output={tmp_path / 'pairs.npy'}")
    assert done.returncode == 0, done.stderr
    assert {row["patient"] for row in manifest(tmp_path / "pairs.manifest.csv")} == {
        str(volumes[0]), str(volumes[2])}


@pytest.mark.parametrize(("odd", "message"), [
    ({"PixelSpacing": None}, r"1\.dcm: gives no pixel spacing; give --pixel_spacing=MM"),
    ({"PixelSpacing": [0.8, 0.9]}, r"1\.dcm: pixels are 0\.8 × 0\.9 mm; expected square ones"),
    ({"stored": np.full((64, 96), 1024)}, r"1\.dcm is 64×96, and most slices are 96×96"),
    # Stored values that have lost their intercept; padding is air, whatever they are.
    ({"stored": np.pad(np.arange(1040, 1135) * np.ones((95, 1), int), ((1, 0), (1, 0))),
      "intercept": 0}, r"1\.dcm: has values from 1040 to 1134, which cannot be HU")])
def test_one_slice_that_cannot_be_used_does_not_lose_the_others(tmp_path, odd, message):
    for number in range(3):
        options = {"stored": scanned_disc(1e6, seed=number) + 1024,
                   "PixelSpacing": [SPACING_MM, SPACING_MM], **(odd if number == 1 else {})}
        dicom_files.write(tmp_path / "in" / f"{number}.dcm", instance=number, **options)
    with pytest.raises(InputError, match=f"1 slice left out, the first .*{message}"):
        run_scan(tmp_path / "in", output=tmp_path / "pairs.npy", pixel_spacing_mm=None)
    assert [row["instance_number"] for row in manifest(tmp_path / "pairs.manifest.csv")] == [
        "0", "2"]


def test_slices_none_of_which_can_be_used_are_an_error(tmp_path):
    dicom_files.write(tmp_path / "in" / "0.dcm", PixelSpacing=None)
    with pytest.raises(InputError, match=r"no slice is left; .*0\.dcm: gives no pixel spacing"):
        run_scan(tmp_path / "in", output=tmp_path / "pairs.npy", pixel_spacing_mm=None)
    assert not (tmp_path / "pairs.npy").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"dose_fraction": 1.0}, "--dose_fraction is 1.0"),
    ({"pixel_spacing_mm": None}, r"full\.npy: gives no pixel spacing; give --pixel_spacing=MM$"),
    ({"kernel": "B30f"}, "--kernel is 'B30f'; expected auto, ramp, soft"),
    ({"kernel": "-2"}, "--kernel is '-2'"), ({"pixel_spacing_mm": -1.0}, "--pixel_spacing is -1"),
    ({"photons_per_ray": 0.0}, "--full_dose_photons_per_ray is 0")])
def test_what_a_scan_cannot_be_simulated_with_is_refused(tmp_path, array, options, message):
    with pytest.raises(InputError, match=message):
        run_scan(array, output=tmp_path / "pairs.npy", **options)
    assert not list(tmp_path.glob("pairs*"))


def test_flags_of_scans_are_not_ignored_for_phantoms(tmp_path):
    done = command.run("--mode=simulate", "--config=configs/attn.py", f"--output={tmp_path}/x.npy",
                       "--noise_seed=1")
    assert done.stderr == "error: --mode=simulate takes --noise_seed only with --input=SCAN\n"


def test_a_configuration_gives_the_dose_of_a_scan(tmp_path, array):
    options = ["--mode=simulate", "--config=configs/attn.py", f"--input={array}", "--kernel=soft",
               "--config.simulation.dose_fraction=0.1", f"--pixel_spacing={SPACING_MM}"]
    for more, dose in (([], 0.1), (["--dose_fraction=0.5"], 0.5)):
        done = command.run(*options, *more, f"--output={tmp_path / str(dose)}.npy")
        assert done.returncode == 0, done.stderr
        assert {float(row["dose_fraction"]) for row in manifest(
            tmp_path / f"{dose}.manifest.csv")} == {dose}


def test_each_slice_has_a_dose_of_its_own_from_a_range(tmp_path):
    path = tmp_path / "full.npy"
    np.save(path, np.stack([scanned_disc(1e6, seed=seed) for seed in range(12)]))
    ndct, qdct = run_scan(path, output=tmp_path / "a.npy", dose_fraction="0.1..0.5")
    doses = [float(row["dose_fraction"]) for row in manifest(tmp_path / "a.manifest.csv")]
    assert len(set(doses)) == 12
    assert 0.1 <= min(doses) < 0.2 < 0.3 < max(doses) <= 0.5
    core = np.hypot(*(np.mgrid[:96, :96] - 48) * SPACING_MM) < 12
    added = (qdct - ndct)[:, core].std(1)
    # Added variance goes with 1/dose − 1.
    expected = np.sqrt(1 / np.array(doses) - 1)
    np.testing.assert_allclose(added / added.mean(), expected / expected.mean(), rtol=0.25)
    run_scan(path, output=tmp_path / "b.npy", dose_fraction="0.1..0.5")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    run_scan(path, output=tmp_path / "c.npy", dose_fraction="0.1..0.5", seed=1)
    assert doses != [float(row["dose_fraction"])
                     for row in manifest(tmp_path / "c.manifest.csv")]
    # A slice's dose is that of its pixels, wherever it stands.
    np.save(path, np.load(path)[::-1])
    run_scan(path, output=tmp_path / "d.npy", dose_fraction="0.1..0.5")
    assert doses[::-1] == [float(row["dose_fraction"])
                           for row in manifest(tmp_path / "d.manifest.csv")]


def test_both_doses_get_another_kernel(tmp_path):
    path = tmp_path / "full.npy"
    np.save(path, np.stack([scanned_disc(1e6, seed=seed) for seed in range(8)]))
    original, _ = run_scan(path, output=tmp_path / "as_it_is.npy")
    ndct, qdct = run_scan(path, output=tmp_path / "sharp.npy", refilter="5.0")
    core = np.hypot(*(np.mgrid[:96, :96] - 48) * SPACING_MM) < 12
    # That of a scan which was reconstructed so: four times the full dose's variance, of which
    # one is there, and a kernel that passes more of it.
    assert ndct[:, core].std() > 1.4 * original[:, core].std()
    assert (qdct - ndct)[:, core].std() == pytest.approx(3 ** 0.5 * ndct[:, core].std(), rel=0.15)
    np.testing.assert_allclose(ndct, np.rint(ndct), atol=1e-3)
    assert ndct.min() == pytest.approx(-1024, abs=1e-3)
    rows = manifest(tmp_path / "sharp.manifest.csv")
    assert {(row["scan_kernel"], row["noise_kernel"]) for row in rows} == {("soft", "5.0")}
    run_scan(path, output=tmp_path / "range.npy", refilter="2.8..6.5")
    drawn = [float(row["noise_kernel"]) for row in manifest(tmp_path / "range.manifest.csv")]
    assert len(set(drawn)) == 8
    assert 2.8 <= min(drawn) < 3.7 < 5 < max(drawn) <= 6.5


@pytest.mark.parametrize("refilter", ["6.5..2.8", "soft", "0", "-3", "inf", "nan", "25"])
def test_another_kernel_that_is_none_is_refused(tmp_path, array, refilter):
    with pytest.raises(InputError, match=f"--refilter is .*{refilter.replace('.', '[.]')}"):
        run_scan(array, output=tmp_path / "a.npy", refilter=refilter)


@pytest.mark.parametrize(("dose_fraction", "message"), [
    ("0.5..0.1", r"--dose_fraction is 0\.5\.\.0\.1; expected a range that rises"),
    ("0.2..0.2", "expected a range that rises"),
    ("0..0.5", "expected a range that rises, above 0"),
    ("0.1..1", "below 1"),
    ("0.1..", r"expected a number or a range, such as 0\.25 or 0\.1\.\.0\.5"),
    ("a quarter", "expected a number or a range"),
    ("nan", "expected above 0 and below 1"),
])
def test_dose_ranges_that_are_none_are_refused(tmp_path, array, dose_fraction, message):
    with pytest.raises(InputError, match=message):
        run_scan(array, output=tmp_path / "a.npy", dose_fraction=dose_fraction)
    assert not (tmp_path / "a.npy").exists()


def test_scans_in_another_unit_or_axes_are_refused_or_taken_by_a_flag(tmp_path):
    disc = scanned_disc(2e5)
    hu = np.stack([disc, disc.T])
    np.save(tmp_path / "hu.npy", hu)
    np.save(tmp_path / "norm.npy", np.moveaxis((hu + 1024) / 4096, 0, -1).astype(np.float64))
    with pytest.raises(InputError, match=r"norm\.npy: has shape \(96, 96, 2\);.*--axes=hwn reads"):
        run_scan(tmp_path / "norm.npy", output=tmp_path / "out.npy")
    with pytest.raises(InputError, match=r"norm\.npy: has values from .*--input_unit=redcnn conv"):
        run_scan(tmp_path / "norm.npy", output=tmp_path / "out.npy", axes="hwn")
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy"}
    assert not (tmp_path / "out.npy").exists()
    ndct, _ = run_scan(tmp_path / "norm.npy", output=tmp_path / "out.npy", axes="hwn",
                       unit="redcnn")
    np.testing.assert_allclose(ndct, hu, atol=0.05)
    dicom_files.write(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"--input_unit=mu: .*a\.dcm is DICOM"):
        run_scan(tmp_path / "a.dcm", output=tmp_path / "b.npy", unit="mu")
