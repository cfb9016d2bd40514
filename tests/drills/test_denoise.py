import pydicom

from benchmarks.series_throughput import stored_slices, write_series
from drills import denoise


def changed(path, **values):
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_the_content_of_a_folder_is_all_but_the_time_of_creation(tmp_path):
    write_series(tmp_path / "scan", stored_slices(2, size=16))
    for path in (tmp_path / "scan").iterdir():
        changed(path, InstanceCreationDate="20200102", InstanceCreationTime="101112")
    before = denoise.content(tmp_path / "scan")
    changed(tmp_path / "scan" / "00001.dcm", InstanceCreationTime="101113")
    assert denoise.content(tmp_path / "scan") == before
    changed(tmp_path / "scan" / "00001.dcm", SliceThickness=5)
    after = denoise.content(tmp_path / "scan")
    assert [name for name in before if after[name] != before[name]] == ["00001.dcm"]
