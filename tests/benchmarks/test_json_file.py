import json

from benchmarks.json_file import write_json


def test_results_are_in_the_file_that_is_named_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(None, {"psnr": 1.5})
    assert not list(tmp_path.iterdir())
    write_json("results.json", {"psnr": 1.5})
    assert json.loads((tmp_path / "results.json").read_text()) == {"psnr": 1.5}
