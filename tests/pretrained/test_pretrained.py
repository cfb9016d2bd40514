import json

import numpy as np
import pytest

from configs import redcnn
from dfgan_jax import pretrained
from dfgan_jax.checkpoints.networks import load_weights
from dfgan_jax.cli import convert, denoise
from dfgan_jax.cli.compared import further_models, model_of
from dfgan_jax.cli.modes import MODES
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.domain import Domain
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation.rows import model_rows
from dfgan_jax.support.digests import file_digest
from dfgan_jax.support.errors import InputError
from tests.cli.untrained import untrained

KNOWN = Domain(noise_hu=(10.0, 30.0), kernel_lp_cm=(3.0, 4.0), pixel_spacing_mm=(0.6, 0.9),
               size=(512, 512), simulated=True, slices=24)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with one file of weights, `attn_dfgan`, and one that is missing, `dfgan`."""
    folder = tmp_path / "package"
    folder.mkdir()
    untrained(tmp_path / "run", redcnn, discriminators="none", trained_on=KNOWN.as_json())
    convert.run(inputs=[tmp_path / "run"], output=folder / "small.safetensors")
    described = {"version": "1", "about": "trained on discs"}
    (folder / "index.json").write_text(json.dumps({
        "attn_dfgan": {**described, "file": "small.safetensors",
                       "sha256": file_digest(folder / "small.safetensors")},
        "dfgan": {**described, "file": "absent.safetensors", "sha256": "0" * 64}}))
    monkeypatch.setattr(pretrained, "_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_weights_are_loaded_by_name_and_by_default(installed):
    slices = np.random.default_rng(0).normal(0, 50, (2, 32, 32)).astype(np.float32)
    by_file = Denoiser.load(installed / "small.safetensors")(slices)
    np.testing.assert_array_equal(Denoiser.load("attn_dfgan")(slices), by_file)
    np.testing.assert_array_equal(Denoiser.load()(slices), by_file)
    assert Denoiser.load().domain == KNOWN
    assert load_weights(["attn_dfgan"]).meta["trained_on"] == KNOWN.as_json()


def test_denoise_says_what_they_were_trained_on(installed, tmp_path, capsys):
    np.save(tmp_path / "hu.npy", np.zeros((1, 32, 32), np.float32))
    denoise.run(checkpoint_path="attn_dfgan", source=tmp_path / "hu.npy",
                output=tmp_path / "out.npy")
    assert capsys.readouterr().out.startswith("attn_dfgan, version 1: trained on discs\n")


def test_they_have_rows_by_name_beside_other_models(installed, tmp_path):
    untrained(tmp_path / "other", redcnn, discriminators="none")
    config = redcnn.get_config()
    config.evaluation.checkpoints = "attn_dfgan"
    rows = model_rows([model_of(each) for each in (
        Denoiser.load("other"), *further_models(RunOptions.of(config).evaluation.checkpoints))])
    assert list(rows) == ["RED-CNN", "attn_dfgan (pretrained)"]


def test_an_unknown_model_in_the_tables_names_its_field(installed):
    config = redcnn.get_config()
    config.evaluation.checkpoints = "attn_dfgan,atn_dfgan"
    with pytest.raises(InputError, match=r"^config\.evaluation\.checkpoints: atn_dfgan: no such"):
        further_models(RunOptions.of(config).evaluation.checkpoints)


def test_a_folder_of_the_same_name_comes_first(installed, tmp_path):
    (tmp_path / "attn_dfgan").mkdir()
    assert pretrained.resolve("attn_dfgan") == type(tmp_path)("attn_dfgan")
    assert pretrained.describe("attn_dfgan") is None


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.touch()])
def test_without_a_checkpoint_nothing_of_that_name_comes_before_the_package(installed, tmp_path,
                                                                            capsys, make):
    make(tmp_path / "attn_dfgan")
    assert Denoiser.load().path == installed / "small.safetensors"
    np.save(tmp_path / "hu.npy", np.zeros((1, 32, 32), np.float32))
    denoise.run(checkpoint_path=None, source=tmp_path / "hu.npy", output=tmp_path / "out.npy")
    assert capsys.readouterr().out.startswith("attn_dfgan, version 1: trained on discs\n")


def test_an_unknown_name_lists_those_that_there_are(installed):
    with pytest.raises(InputError, match=r"^atn_dfgan: no such file or folder, nor pretrained "
                                         r"weights: there are attn_dfgan, dfgan$"):
        Denoiser.load("atn_dfgan")


@pytest.mark.parametrize("load", [Denoiser.load, lambda path: load_weights([path])])
def test_a_path_that_is_not_there_is_told_as_such(installed, load):
    with pytest.raises(InputError, match=r"^nodir/dfgan\.pth: no such file or folder$"):
        load("nodir/dfgan.pth")


def test_weights_that_are_not_installed_are_told(installed):
    with pytest.raises(InputError, match=r"^dfgan: .*absent\.safetensors is not installed; "
                                         r"wheel and repository of version 1 have it"):
        Denoiser.load("dfgan")


def test_a_damaged_file_is_refused(installed):
    content = bytearray((installed / "small.safetensors").read_bytes())
    content[-1] ^= 1
    (installed / "small.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is damaged: its SHA-256 is not that of version 1"):
        Denoiser.load("attn_dfgan")


def test_the_demo_and_the_flag_name_the_default():
    assert redcnn.get_config("demo").evaluation.checkpoints == pretrained.DEFAULT
    flag = MODES["denoise"].optional["checkpoint=PATH"]
    assert flag.endswith(f", or the name of pretrained weights; {pretrained.DEFAULT} by default")


def test_the_index_is_true():
    for name, described in pretrained.index().items():
        assert described.keys() == {"file", "version", "sha256", "about"}
        assert Denoiser.load(name).domain is not None


@pytest.mark.parametrize("name", pretrained.index())
def test_every_stage_of_the_weights_takes_part(name):
    slices = np.random.default_rng(0).normal(0, 50, (70, 83)).astype(np.float32)
    assert Denoiser.load(name).idle_stages(slices) == []
