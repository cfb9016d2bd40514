import json

import ml_collections
import numpy as np
import pytest

from configs import attn, dfgan
from dfgan_jax.ct.pairs import Pairs
from dfgan_jax.errors import InputError
from dfgan_jax.evaluation.report import Example
from dfgan_jax.inference import Denoiser
from dfgan_jax.modes import evaluate, setup
from tests.modes.untrained import untrained


@pytest.fixture
def test_pairs():
    rng = np.random.default_rng(0)
    ndct = rng.normal(0.5, 0.5, (5, 32, 32)).astype(np.float32)
    return Pairs(ndct, ndct + rng.normal(0, 0.1, ndct.shape).astype(np.float32))


def test_several_checkpoints_share_one_table(tmp_path, test_pairs, capsys):
    config, _ = untrained(tmp_path / "a", attn)
    untrained(tmp_path / "b", dfgan)
    untrained(tmp_path / "c", dfgan)
    evaluate.score_and_report(
        config, workdir=tmp_path / "out", test=test_pairs,
        denoisers=[Denoiser.load(tmp_path / name) for name in ("a", "b", "c")])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for protocol in results["protocols"].values():
        assert [row["name"] for row in protocol["rows"]] == [
            "QDCT", "AttnDFGAN", "DFGAN", "DFGAN (c)"]
        # The same weights give the same row.
        first, second = protocol["rows"][2:]
        assert {**first, "name": ""} == {**second, "name": ""}
    printed = capsys.readouterr().out
    assert "full_range: 5 slices at 32, data range 4095 HU" in printed
    assert (tmp_path / "out" / "report.html").exists()


def test_a_missing_checkpoint_is_told_before_the_data_are_read(tmp_path):
    config = ml_collections.ConfigDict(attn.get_config())
    config.data.test = str(tmp_path / "absent.npy")
    with pytest.raises(InputError, match="no checkpoint here"):
        evaluate.run(config, workdir=tmp_path / "out", checkpoint_paths=[str(tmp_path)])
    assert not (tmp_path / "out").exists()


def test_a_training_run_keeps_its_results(tmp_path):
    config = attn.get_config()
    setup.claim_workdir(tmp_path, config)
    with pytest.raises(InputError, match="belongs to a training run"):
        evaluate.run(config, workdir=tmp_path, checkpoint_paths=[str(tmp_path)])


def test_equal_images_leave_json_that_every_program_reads():
    results = {"rows": [{"psnr": float("inf"), "ssim": 1.0}], "slices": 3, "name": "QDCT"}
    assert json.loads(json.dumps(evaluate._finite_or_null(results), allow_nan=False)) == {
        "rows": [{"psnr": None, "ssim": 1.0}], "slices": 3, "name": "QDCT"}


def test_examples_show_the_slice_that_gains_least():
    images = {"QDCT": np.zeros((9, 2, 2)), "model": np.ones((9, 2, 2))}
    psnr = np.arange(9.0) + 30
    psnr[1] = 5
    scores = {"QDCT": {"psnr": np.full(9, 30.0)}, "model": {"psnr": psnr}}
    examples = evaluate._examples(images, np.zeros((9, 2, 2)), scores)
    assert [e.name for e in examples] == [
        "Slice 1, smallest gain of all slices", "Slice 2", "Slice 4", "Slice 6"]
    assert all(isinstance(e, Example) for e in examples)
