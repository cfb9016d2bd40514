import hashlib
import re

import pytest
from pydicom import uid

from dfgan_jax.pretrained import open_ct
from dfgan_jax.pretrained.open_ct import OpenSlice
from dfgan_jax.support.errors import InputError
from tests.scans.dicom_files import ct_slice, ramp, save


def listed(number, stored):
    return OpenSlice(
        file=f"train/kits/p{number}/000.dcm", collection="kits", licence="CC BY 4.0",
        doi="10.7937/x", series_uid=f"1.2.3.{number}", sop_uid=f"1.2.3.{number}.1",
        pixels_sha256=hashlib.sha256(stored.astype("<u2").tobytes()).hexdigest())


@pytest.fixture
def download(tmp_path, monkeypatch):
    """A folder with the two slices that are listed, one of another series, and a licence."""
    stored = {1: ramp(), 2: ramp(first=50)}
    monkeypatch.setattr(open_ct, "read_manifest",
                        lambda: [listed(number, each) for number, each in stored.items()])
    for number, pixels in [*stored.items(), (3, ramp())]:
        save(tmp_path / "download" / f"series{number}" / "1-01.dcm",
             ct_slice(stored=pixels, series=f"1.2.3.{number}"),
             syntax=uid.RLELossless if number == 1 else uid.ExplicitVRLittleEndian)
    (tmp_path / "download" / "LICENSE").write_text("CC BY 4.0")
    return tmp_path / "download"


def test_the_manifest_is_of_open_collections():
    slices = open_ct.read_manifest()
    assert len(slices) == 259
    assert {each.split: sum(one.split == each.split for one in slices) for each in slices} == {
        "test": 19, "train": 240}
    assert {each.licence for each in slices} == {"CC BY 3.0", "CC BY 4.0"}
    assert all(re.fullmatch(r"10\.7937/\S+", each.doi) for each in slices)
    assert all(re.fullmatch("[0-9a-f]{64}", each.pixels_sha256) for each in slices)
    assert len({each.pixels_sha256 for each in slices}) == 259
    assert {each.collection for each in slices if each.split == "test"} == {"covid_19_ny_sbu"}


def test_listed_slices_are_copied_whatever_their_encoding(tmp_path, download):
    right, wrong = open_ct.check(download, output=tmp_path / "out", splits=("train",))
    assert (right, wrong) == (2, [])
    written = sorted((tmp_path / "out").rglob("*.dcm"))
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == [
        "train/kits/p1/000.dcm", "train/kits/p2/000.dcm"]
    assert written[0].read_bytes() == (download / "series1" / "1-01.dcm").read_bytes()


def test_other_pixels_and_missing_slices_are_named(download):
    changed = ramp(first=50)
    changed[0, 0] += 1
    save(download / "series2" / "1-01.dcm", ct_slice(stored=changed, series="1.2.3.2"))
    (download / "series1" / "1-01.dcm").unlink()
    right, wrong = open_ct.check(download, output=None, splits=("train", "test"))
    assert right == 0
    assert wrong == [
        "missing: train/kits/p1/000.dcm: kits, series 1.2.3.1, SOP instance 1.2.3.1.1",
        f"{download / 'series2' / '1-01.dcm'}: other pixels than in open_ct.csv"]


def test_a_file_that_cannot_be_decoded_is_named(download):
    path = download / "series2" / "1-01.dcm"
    path.write_bytes(path.read_bytes()[:-300])
    _, (line,) = open_ct.check(download, output=None, splits=("train",))
    assert line.startswith(f"{path}: cannot be decoded")


def test_an_output_that_exists_is_not_written_into(tmp_path, download):
    with pytest.raises(InputError, match="exists"):
        open_ct.check(download, output=tmp_path, splits=("train",))


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--input: .*no such folder"):
        open_ct.check(tmp_path / "none", output=None, splits=("train",))
