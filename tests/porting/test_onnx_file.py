import json
import pathlib
import re
import sys

import jax
import numpy as np
import onnx
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.models.generators import ARCHITECTURES, build_generator, initial_variables
from dfgan_jax.porting.onnx_file import run_onnx, write_onnx
from dfgan_jax.porting.weights import Weights
from dfgan_jax.support.errors import InputError

GENERATORS = {
    "DFGAN, as published": {"width": 2},
    "AttnDFGAN, as published": {"width": 2, "attention": True},
    "the recipe at native size": {"width": 4, "attention": True, "output": "difference",
                                  "add_image": False, "normalization": "none"},
    "groups and windows": {"width": 4, "attention": True, "normalization": "group",
                           "gate_window": 32},
    "RED-CNN": {"architecture": "redcnn", "width": 4},
    "CNN-10": {"architecture": "cnn10", "width": 4},
    "NAFNet": {"architecture": "nafnet", "width": 4, "blocks": "1,2,0,1,1"},
}


def weights_of(options):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        around = 1 if path[-1].key in ("var", "scale") else 0
        return rng.normal(around, 0.1, leaf.shape).astype(np.float32)

    network = build_generator(**options)
    variables = jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(lambda: initial_variables(network, jax.random.key(0))))
    unseen = {name: options[name] for name in ("output", "gate_window") if name in options}
    return Weights(generator=variables, discriminators={}, unseen=unseen)


def test_every_architecture_is_among_them():
    named = {options.get("architecture", "unet") for options in GENERATORS.values()}
    assert named == set(ARCHITECTURES)


@pytest.mark.parametrize("name", GENERATORS)
def test_onnx_runtime_denoises_alike_at_any_size(tmp_path, name):
    """Sizes that the network takes, that are padded, and that are reflected more than once.

    The U-Net's program for the second size is that for the first.
    """
    options = GENERATORS[name]
    weights = weights_of(options)
    write_onnx(tmp_path / "x.onnx", weights, name=name, meta={})
    denoiser = Denoiser(build_generator(**options), weights.generator_variables)
    for shape in ((2, 64, 48), (2, 50, 33), (1, 9, 40)):
        hu = np.random.default_rng(1).uniform(-1024, 3000, shape).astype(np.float32)
        hu[0, 0, :3] = -3000  # padding outside the field of view
        expected = denoiser(hu)
        assert np.abs(expected - hu).max() > 20
        found = run_onnx(tmp_path / "x.onnx", hu)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=0.02)
        np.testing.assert_array_equal(found[0, 0, :3], -3000)


def test_the_file_says_what_it_is_and_what_it_takes(tmp_path):
    write_onnx(tmp_path / "x.onnx", weights_of(GENERATORS["the recipe at native size"]),
               name="AttnDFGAN", meta={"trained_on": {"size": [512, 512]}})
    model = onnx.load(tmp_path / "x.onnx")
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["model"] == "AttnDFGAN"
    assert json.loads(metadata["trained_on"]) == {"size": [512, 512]}
    assert metadata["note"] == "Research software, not a medical device."
    for value, name in ((model.graph.input, "qdct_hu"), (model.graph.output, "denoised_hu")):
        (only,) = value
        sizes = only.type.tensor_type.shape.dim
        assert (only.name, [each.dim_param or each.dim_value for each in sizes]) == (
            name, ["batch", 1, "height", "width"])


@pytest.mark.parametrize(("module", "call"), [
    ("onnx", lambda path: write_onnx(path, weights_of({"width": 2}), name="x", meta={})),
    ("onnxruntime", lambda path: run_onnx(path, np.zeros((1, 32, 32)))),
])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "dfgan_jax.porting.onnx_graph", raising=False)
    with pytest.raises(InputError, match=rf"ONNX needs the package {module}: pip install {module}"):
        call(tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_the_program_of_the_page_denoises_a_dicom_slice(tmp_path, monkeypatch):
    page = pathlib.Path(__file__).parents[2] / "docs" / "onnx.md"
    program = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    weights = weights_of({"width": 2})
    write_onnx(tmp_path / "attn_dfgan.onnx", weights, name="x", meta={})
    slice_ = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    slice_.save_as(tmp_path / "slice.dcm")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, page, "exec"), {})
    hu = slice_.pixel_array * float(slice_.RescaleSlope) + float(slice_.RescaleIntercept)
    denoiser = Denoiser(build_generator(width=2), weights.generator_variables)
    np.testing.assert_allclose(np.load("denoised.npy"), denoiser(hu), atol=0.02)
