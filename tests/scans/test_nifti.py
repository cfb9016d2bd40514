import errno
import gzip
import itertools

import nibabel
import numpy as np
import pytest

from dfgan_jax.scans import nifti
from dfgan_jax.scans.nifti import create_like, has_header_of, is_nifti, is_whole, open_nifti
from dfgan_jax.support.errors import InputError
from tests.mutations import mutated, refusals

STORED = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 6), dtype=np.int16)


def affine(*directions, spacing=(0.7, 0.8, 3.0), tilt=0.0):
    """Array axes along the given patient axes: affine("L", "P", "S")."""
    matrix = np.eye(4)
    for axis, (direction, size) in enumerate(zip(directions, spacing, strict=True)):
        row = "RLAPSI".index(direction) // 2
        matrix[:3, axis] = 0
        matrix[row, axis] = size if direction in "RAS" else -size
        matrix[(row + 1) % 3, axis] = tilt * size
    matrix[:3, 3] = (10, -20, 30)
    return matrix


def save(path, stored=STORED, *, where=None, slope=None, intercept=None, kind=nibabel.Nifti1Image,
         extension=False, endianness="<"):
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(stored.dtype)
    header["descrip"] = b"of the scanner"
    header["aux_file"] = b"kept"
    image = kind(stored, affine("L", "P", "S") if where is None else where, header)
    if extension:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment"))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, path)
    return path


def opened(path, tmp_path):
    return open_nifti(path, scratch=tmp_path)


@pytest.mark.parametrize("directions", [
    directions for axes in itertools.permutations(["RL", "AP", "SI"])
    for directions in itertools.product(*axes)])
def test_slices_lie_as_in_ct_whatever_the_axes_of_the_file(tmp_path, directions):
    where = affine(*directions, tilt=0.2)
    path = save(tmp_path / "a.nii", where=where)
    volume = opened(path, tmp_path)
    right_front_head = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    # From feet to head, from front to back, and from the patient's right to the left.
    expected = right_front_head[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.stored, expected)
    spacing = dict(zip(("RL" if d in "RL" else "AP" if d in "AP" else "SI" for d in directions),
                       nibabel.affines.voxel_sizes(where), strict=True))
    assert volume.pixel_spacing_mm == pytest.approx((spacing["AP"], spacing["RL"]))
    target = create_like(volume, tmp_path / "b.nii", description="d")
    target[...] = expected + 1
    written = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(np.asarray(written.dataobj), STORED + 1)
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII"])
@pytest.mark.parametrize(("dtype", "slope", "intercept"), [
    (np.int16, None, None), (np.uint16, 1, -1024), (np.int16, 0.5, 3.25), (np.float32, None, None),
    (np.float32, 2, -100), (np.uint8, 10, -1000), (np.float64, None, None)])
@pytest.mark.parametrize("endianness", "<>")
def test_values_and_their_scale_are_read(tmp_path, suffix, dtype, slope, intercept, endianness):
    stored = np.abs(STORED).astype(dtype)
    path = save(tmp_path / f"a{suffix.lower()}", stored, slope=slope, intercept=intercept,
                endianness=endianness).rename(tmp_path / f"b{suffix}")
    assert is_nifti(path)
    volume = opened(path, tmp_path)
    assert (volume.slope, volume.intercept) == (slope or 1, intercept or 0)
    np.testing.assert_array_equal(volume.stored, stored.transpose(2, 1, 0))
    assert volume.stored.dtype.kind == np.dtype(dtype).kind


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("endianness", "<>")
def test_what_is_written_differs_in_values_and_description_alone(tmp_path, kind, name, endianness):
    path = save(tmp_path / name, slope=2, intercept=-5, kind=kind, extension=True,
                endianness=endianness)
    volume = opened(path, tmp_path)
    create_like(volume, tmp_path / "b.nii", description="ä" * 100)[...] = volume.stored
    source = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    written = (tmp_path / "b.nii").read_bytes()
    start = source.index(b"of the scanner")
    assert written[:start] == source[:start]
    assert written[start:start + 80] == b"?" * 79 + b"\0"
    assert written[start + 80:] == source[start + 80:]
    assert b"a comment" in written
    nifti.pack(tmp_path / "b.nii", tmp_path / "b.nii.gz")
    assert gzip.decompress((tmp_path / "b.nii.gz").read_bytes()) == written


@pytest.mark.parametrize("name", ["packed.nii", "plain.nii.gz"])
def test_the_content_tells_whether_a_file_is_packed(tmp_path, name):
    content = save(tmp_path / "a.nii", slope=2, intercept=-5).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "packed.nii" else content)
    volume = opened(tmp_path / name, tmp_path)
    assert (volume.slope, volume.intercept) == (2, -5)
    np.testing.assert_array_equal(volume.stored, STORED.transpose(2, 1, 0))
    create_like(volume, tmp_path / "b.nii", description="d")[...] = volume.stored
    np.testing.assert_array_equal(nibabel.load(tmp_path / "b.nii").dataobj.get_unscaled(), STORED)


@pytest.mark.parametrize("name", ["b.nii", "b.nii.gz"])
def test_a_volume_that_was_cut_off_is_broken_though_its_header_is_whole(tmp_path, name):
    volume = opened(save(tmp_path / "a.nii"), tmp_path)
    create_like(volume, tmp_path / "whole.nii", description="d")[...] = volume.stored
    content = (tmp_path / "whole.nii").read_bytes()
    for left, whole in ((content, True), (content[:-2], False)):
        (tmp_path / name).write_bytes(gzip.compress(left) if name.endswith(".gz") else left)
        assert has_header_of(tmp_path / name, tmp_path / "a.nii", description="d")
        assert is_whole(tmp_path / name) == whole
    assert not has_header_of(tmp_path / name, tmp_path / "a.nii", description="e")


@pytest.mark.parametrize(("unit", "size"), [
    ("unknown", 0.7), ("mm", 0.7), ("meter", 0.0007), ("micron", 700)])
def test_the_pixel_spacing_is_in_mm_whatever_the_unit_of_the_file(tmp_path, unit, size):
    image = nibabel.Nifti1Image(STORED, affine("L", "P", "S", spacing=(size,) * 3))
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, tmp_path / "a.nii")
    assert opened(tmp_path / "a.nii", tmp_path).pixel_spacing_mm == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize(("shape", "slices"), [((4, 5), (1, 5, 4)), ((4, 5, 6, 1, 1), (6, 5, 4))])
def test_one_slice_and_axes_of_length_1_are_a_volume(tmp_path, shape, slices):
    path = save(tmp_path / "a.nii", np.zeros(shape, np.int16))
    assert opened(path, tmp_path).stored.shape == slices


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def cut(path, count):
    path.write_bytes(path.read_bytes()[:count])


def flatten(path):
    """Takes the second row out of the affine."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        content = file.read()
    content = content[:296] + bytes(16) + content[312:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(("change", "message"), [
    (lambda path: save(path, np.zeros((4, 5, 6, 2), np.int16)), r"has shape \(4, 5, 6, 2\)"),
    (lambda path: save(path, np.zeros((4, 5, 6), RGB)), r"not numbers in HU"),
    (lambda path: save(path, np.zeros((4, 5, 6), np.complex64)), "holds complex64, not numbers"),
    (lambda path: save(path, np.zeros((4, 0, 6), np.int16)), r"has shape \(4, 0, 6\)|broken"),
    (lambda path: flatten(save(path)), "a direction of length 0"),
    (lambda path: cut(save(path), -10), "broken"),
    (lambda path: cut(save(path), 200), "broken"),
    (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    (lambda path: path.write_bytes(b"These are notes.\n" * 100), "no NIfTI file|broken"),
])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_is_no_volume_of_numbers_is_refused(tmp_path, name, change, message):
    change(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: .*({message})") as caught:
        opened(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_packed_file_that_ends_early_is_told(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    with gzip.open(path) as file:
        content = file.read()
    path.write_bytes(gzip.compress(content[:-100]))
    with pytest.raises(InputError, match=r"a\.nii\.gz: .*it ends 100 bytes early"):
        opened(path, tmp_path)
    with pytest.raises(InputError, match=r"b\.nii: no such file"):
        opened(tmp_path / "b.nii", tmp_path)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place:][1:]


@pytest.mark.parametrize(("change", "message"), [
    (lambda packed: flipped(packed, len(packed) // 2), "CRC check failed"),  # a pixel
    (lambda packed: flipped(packed, len(packed) - 8), "CRC check failed"),
    (lambda packed: flipped(packed, len(packed) - 4), "Incorrect length"),
    (lambda packed: packed[:-8], "ended before the end-of-stream marker"),
    (lambda packed: packed + b"more", "Not a gzipped file")])
def test_a_packed_file_must_have_its_checksum(tmp_path, change, message):
    path = tmp_path / "a.nii.gz"
    packed = gzip.compress(save(tmp_path / "a.nii").read_bytes(), 0)  # no code to break
    path.write_bytes(packed + bytes(3))  # as tapes fill their blocks
    assert opened(path, tmp_path).stored.shape == (6, 5, 4)
    path.write_bytes(change(packed))
    with pytest.raises(InputError, match=rf"a\.nii\.gz: .*broken.*{message}"):
        opened(path, tmp_path)


def test_a_bomb_behind_the_volume_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "_MOST_BEHIND", 10**6)
    path = tmp_path / "a.nii.gz"
    content = save(tmp_path / "a.nii").read_bytes()
    path.write_bytes(gzip.compress(content + bytes(10**6)))
    assert opened(path, tmp_path).stored.shape == (6, 5, 4)
    path.write_bytes(gzip.compress(content + bytes(10**7))[:-8])  # its end is not read
    with pytest.raises(InputError, match=r"a\.nii\.gz: broken: more than 1,000,000 bytes behind "
                                         "the volume that its header states"):
        opened(path, tmp_path)


def test_no_more_is_unpacked_than_the_header_tells_of(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    with gzip.open(path) as file:
        content = file.read()
    path.write_bytes(gzip.compress(content + bytes(10**6)))
    assert opened(path, tmp_path).unpacked.stat().st_size <= len(content)


def test_a_new_file_has_its_full_size_before_it_is_mapped(tmp_path, monkeypatch):
    """A write into a mapping of bytes that a full disk lacks would kill the process."""
    path = save(tmp_path / "a.nii", extension=True)
    monkeypatch.setattr(np, "memmap", lambda mapped, *_, **__: pytest.fail(
        f"{mapped.stat().st_size} bytes"))
    volume = opened(path, tmp_path)
    with pytest.raises(pytest.fail.Exception, match=f"^{path.stat().st_size} bytes"):
        create_like(volume, tmp_path / "b.nii", description="d")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_full_disk_is_no_broken_file(tmp_path, monkeypatch, name):
    path = save(tmp_path / name)
    monkeypatch.setattr(nifti, "allocate", full)
    with pytest.raises(OSError, match="No space left"):
        create_like(opened(path, tmp_path), tmp_path / "b.nii", description="d")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_broken_volumes_are_refused_and_nothing_else_happens(tmp_path, fuzz_files, name):
    path = save(tmp_path / "whole.nii", slope=2, intercept=3, extension=True)
    content = path.read_bytes()
    rng = np.random.default_rng(0)

    def read(path):
        volume = opened(path, tmp_path)
        assert volume.stored.ndim == 3
        create_like(volume, tmp_path / "out.nii", description="d")

    contents = (copy + content[400:] for copy in mutated(content[:400], count=fuzz_files // 2,
                                                         rng=rng))
    if name.endswith("gz"):
        contents = map(gzip.compress, contents)
    messages = refusals(read, tmp_path / name, contents)
    assert len(messages) > fuzz_files / 100
    assert not [line for line in messages if not line.startswith(f"{tmp_path / name}: ")
                or "\n" in line]
