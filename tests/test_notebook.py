"""The notebook: kept without output; it runs from its folder in a checkout, and once installed."""

import json
import os
import pathlib
import re
import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.test_docs import broken

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"

SHORT = ["--config.data.size=32", "--config.generator.width=2",
         "--config.simulation.train_slices=4", "--config.simulation.valid_slices=2",
         "--config.simulation.test_slices=2", "--config.batch_size=2", "--config.epochs=1"]
"""Flags after those of the notebook: the last of a field counts."""

KEEP = """
import numpy
numpy.savez("kept.npz", ndct=ndct, qdct=qdct, denoised=denoised, trained=denoised_by_trained)
"""


def cell(notebook, name):
    return next(each for each in notebook.cells if each.id == name)


def printed(executed):
    """What an executed cell prints."""
    return "".join(output.text for output in executed.outputs if output.output_type == "stream")


def pictures(executed):
    return sum("image/png" in output.get("data", {}) for output in executed.outputs)


def environment(folder):
    """Of a kernel that writes into `folder`, with one device."""
    return {**os.environ, "XLA_FLAGS": "", "XDG_CACHE_HOME": str(folder / "cache"),
            "IPYTHONDIR": str(folder / "ipython"), "MPLCONFIGDIR": str(folder / "matplotlib"),
            "PYTHONPATH": ""}


@pytest.fixture(autouse=True)
def connection_files(tmp_path_factory, monkeypatch):
    """Keeps Jupyter's files out of the user's home."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))


def checkout(folder):
    """Links to what the notebook needs of the checkout, whose runs are then in `folder`."""
    (folder / "notebooks").mkdir()
    for name in ("main.py", "dfgan_jax", "configs"):
        (folder / name).symlink_to(ROOT / name)


def test_is_valid_and_kept_without_output():
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    code = [each for each in notebook.cells if each.cell_type == "code"]
    assert [each.id for each in code if each.outputs or each.execution_count is not None] == []
    assert [(each.id, each.metadata) for each in notebook.cells if each.metadata] == [
        ("parameters", {"tags": ["parameters"]})]
    assert json.loads(NOTEBOOK.read_text(encoding="utf-8"))["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}}


def test_states_its_limit_and_links_to_pages():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert "Research software, not a medical device" in notebook.cells[0].source
    assert list(broken(NOTEBOOK)) == []


def test_runs_from_top_to_bottom_in_its_folder(tmp_path):
    checkout(tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell(notebook, "parameters").source += f"""
assert TRAINING[0] == "--config=attn:demo"
TRAINING = ["--config=redcnn:demo", *TRAINING[1:], *{SHORT}]  # it compiles fastest
"""
    notebook.cells.append(nbformat.v4.new_code_cell(KEEP))
    client = NotebookClient(notebook, timeout=900, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    client.execute(env=environment(tmp_path))

    kept = np.load(tmp_path / "kept.npz")
    ndct, *images = (kept[name].astype(np.float64)
                     for name in ("ndct", "qdct", "denoised", "trained"))
    assert ndct.shape == (256, 256)
    rmse = [np.sqrt(np.mean((image - ndct) ** 2)) for image in images]
    psnr = 20 * np.log10(4095 / np.array(rmse))
    assert psnr[1] > psnr[0] + 3
    assert not np.array_equal(images[2], images[0])

    number = r" +([\d.]+)"
    rows = re.findall(rf"^(QDCT|attn_dfgan|runs/quickstart){number}{number}{number}$",
                      printed(cell(notebook, "compare")), flags=re.MULTILINE)
    assert [row[0] for row in rows] == ["QDCT", "attn_dfgan", "runs/quickstart"]
    assert [float(row[1]) for row in rows] == pytest.approx(psnr, abs=0.006)
    assert [float(row[3]) for row in rows] == pytest.approx(rmse, abs=0.06)
    assert float(rows[0][2]) + 0.01 < float(rows[1][2]) <= 1
    assert printed(cell(notebook, "score")).splitlines() == printed(
        cell(notebook, "compare")).splitlines()[:3]
    assert [pictures(cell(notebook, name)) for name in ("look", "compare")] == [1, 1]

    run = tmp_path / "runs" / "quickstart"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["2"]
    assert (run / "report.html").exists()
    assert "RED-CNN in runs/quickstart" in printed(cell(notebook, "train"))


@pytest.mark.parametrize(("place", "command"), [
    (".", ["{python}", "main.py", "--mode=train"]),
    ("notebooks", ["{python}", "main.py", "--mode=train"]),
    ("notebooks/deeper", ["{scripts}/dfgan-jax", "train"])])
def test_takes_the_checkout_above_it_or_the_installed_command(place, command, tmp_path,
                                                              monkeypatch):
    checkout(tmp_path)
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict[str, object] = {}
    exec(cell(nbformat.read(NOTEBOOK, as_version=4), "setup").source, names)
    scripts = pathlib.Path(sys.executable).parent
    assert names["command"] == [part.format(python=sys.executable, scripts=scripts)
                                for part in command]
    assert pathlib.Path.cwd() == (folder if "deeper" in place else tmp_path)
