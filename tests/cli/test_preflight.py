import importlib.util
import json
import math
import signal

import jax
import pytest

from configs import attn, dfgan
from dfgan_jax.cli import preflight
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.performance import preflight as performance_preflight
from dfgan_jax.performance import tpu_slices
from dfgan_jax.performance.collectives import Collective
from dfgan_jax.performance.programs import Program, step_on
from dfgan_jax.support.errors import InputError

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None,
                                  reason="libtpu, which compiles for TPUs, is not installed")


@pytest.fixture
def config():
    config = dfgan.get_config("slides")
    config.data.size = 32
    config.discriminators = "none"  # the step that compiles fastest
    config.generator.width = 2
    return config


def program(step, images_per_chip, limit, *, total):
    fits = total <= limit
    return Program(
        step=step, images_per_chip=images_per_chip, seconds=1.0, fits=fits,
        memory={"arguments": 0.5, "total": total} if fits else {"total": total},
        collectives=[Collective("all-reduce", "gradients and metrics", 1, 2**20),
                     Collective("all-reduce", "BatchNorm, forward", 18, 64),
                     Collective("all-gather", "metrics", 2, 64)] if fits else [])


@pytest.fixture
def slice_of_16(monkeypatch):
    """16 chips of 16 GiB, and a training step that takes 1 + 1.5 GiB an image, 1 with remat.

    On slices of 16 times as many pixels, evaluation takes 4 GiB an image instead of 0.25.
    """
    class Chip:
        device_kind = "TPU v5 lite"

    def compile_(config, devices, step, images_per_chip, *, limit):
        assert len(devices) == 16
        each = {"train": 1.5, "train with remat": 1.0,
                "evaluation": 0.25 * (config.slice_size // config.size)**2}[step]
        return program(step, images_per_chip, limit,
                       total=1 + each * images_per_chip / config.accumulate)

    monkeypatch.setattr(tpu_slices, "devices", lambda topology: [Chip()] * 16)
    monkeypatch.setattr(tpu_slices, "memory_bytes", lambda device: 16 * 2**30)
    monkeypatch.setattr(tpu_slices, "version", lambda: "0.0")
    monkeypatch.setattr(performance_preflight, "compile_step", compile_)


def test_a_batch_that_fits(config, slice_of_16, tmp_path, capsys):
    config.batch_size = 32
    preflight.run(config, workdir=tmp_path, topology="v5e:4x4")
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert report["fits"] is True
    assert report["memory_per_chip_gib"] == 4.0  # of the step that takes the most
    assert report["batch_divides"] is True
    assert (report["chips"], report["images_per_chip"], report["parallel"]) == (16, 2, "pmap")
    assert report["all_reduces"] == 19
    assert report["gradient_all_reduces"] == 1
    assert report["largest_batch"] == 160  # 1 + 1.5 · 10
    assert report["advice"] == []
    printed = capsys.readouterr().out
    assert "4.00 of 16.00 GiB a chip: fits" in printed
    assert "a batch of at least 160, 10 a chip, fits" in printed
    assert "1 × all-reduce of gradients and metrics, 1.0 MiB" in printed


@pytest.mark.parametrize(("batch_size", "accumulate", "compiled"), [
    (16, 2, 32), (41, 1, 48), (39, 1, 32), (3, 1, 16)])
def test_a_batch_that_does_not_divide(config, slice_of_16, tmp_path, capsys, batch_size,
                                      accumulate, compiled):
    config.batch_size = batch_size
    config.accumulate = accumulate
    preflight.run(config, workdir=tmp_path, topology="v5e:4x4", search_limit_s=0)
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert report["batch_divides"] is False
    assert (report["batch_size"], report["compiled_batch_size"]) == (batch_size, compiled)
    assert report["images_per_chip"] == compiled // 16
    printed = capsys.readouterr().out
    assert f"{batch_size} does NOT divide: the rest is for {compiled}" in printed
    assert f"give config.batch_size={compiled}" in printed


def test_what_does_not_fit_says_what_does(config, slice_of_16, tmp_path, capsys):
    config.batch_size = 16 * 12
    with pytest.raises(SystemExit) as end:
        preflight.run(config, workdir=tmp_path, topology="v5e:4x4")
    assert end.value.code == 1
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert report["fits"] is False
    assert report["memory_per_chip_gib"] == 19.0
    assert report["largest_batch"] == 160
    assert report["all_reduces"] is None
    assert report["advice"][:2] == ["config.batch_size=160: fits",
                                    "config.remat=True: fits, 13.00 GiB, for about a third "
                                    "more time"]
    assert "19.00 of 16.00 GiB a chip: does NOT fit" in capsys.readouterr().out


@pytest.fixture
def cropped(config):
    config.data.size, config.data.crop = 128, 32
    return config


def test_training_is_planned_with_crops_and_evaluation_with_slices(config):
    config.data.size = 64
    shapes = {}
    for crop in (0, 32):
        config.data.crop = crop
        planned = preflight.planned_of(RunOptions.of(config))
        shapes[crop] = [step_on(planned, jax.devices()[:1], step, 4)[2]["qdct"].shape
                        for step in ("train", "train with remat", "evaluation")]
    assert shapes == {0: 3 * [(4, 64, 64, 1)],
                      32: [(4, 32, 32, 1), (4, 32, 32, 1), (4, 64, 64, 1)]}


def test_native_slices_are_planned_as_those_that_are_simulated():
    planned = preflight.planned_of(RunOptions.of(dfgan.get_config("native")))
    assert (planned.size, planned.slice_size) == (128, 512)


def test_of_crops_the_report_names_both_sizes_and_the_search_is_of_both_steps(
        cropped, slice_of_16, tmp_path, capsys):
    cropped.batch_size = 16
    preflight.run(cropped, workdir=tmp_path, topology="v5e:4x4")
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert (report["size"], report["slice_size"]) == (32, 128)
    assert report["fits"] is True
    assert report["memory_per_chip_gib"] == 5.0  # of the evaluation
    assert report["largest_batch"] == 48  # 1 + 4 · 3, where training alone would take 10 a chip
    assert report["largest_batch_is_exact"] is False
    assert "32² crops in training, 128² in evaluation, on 16 ×" in capsys.readouterr().out


def test_an_evaluation_that_alone_does_not_fit(cropped, slice_of_16, tmp_path):
    cropped.batch_size = 16 * 5
    with pytest.raises(SystemExit):
        preflight.run(cropped, workdir=tmp_path, topology="v5e:4x4")
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert (report["memory_per_chip_gib"], report["largest_batch"]) == (21.0, 48)
    assert report["advice"] == [
        "config.batch_size=48: fits", "more chips, or a smaller config.batch_size: the "
        "evaluation, of whole slices, does not fit"]


def test_without_time_nothing_more_is_compiled(config, slice_of_16, tmp_path):
    config.batch_size = 16 * 12
    with pytest.raises(SystemExit):
        preflight.run(config, workdir=tmp_path, topology="v5e:4x4", search_limit_s=0)
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert [each["step"] for each in report["compiled"]] == ["train", "evaluation"]
    assert report["largest_batch"] is None
    assert "not compiled" in report["advice"][0]


def test_what_takes_too_long_is_not_begun(config, slice_of_16, tmp_path):
    """1 s for two images a chip; eight, the next, should take 4 ** (1 / 3) = 1.6 s."""
    config.batch_size = 32
    preflight.run(config, workdir=tmp_path, topology="v5e:4x4", search_limit_s=1.5)
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert [each["images_per_chip"] for each in report["compiled"]] == [2, 2]


@pytest.fixture
def heeded_interrupt():
    """SIGINT as Python has it by default; what started the tests may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupt")
def test_the_report_is_there_before_the_search(config, slice_of_16, tmp_path, monkeypatch):
    compile_ = performance_preflight.compile_step

    def interrupted(config, devices, step, images_per_chip, *, limit):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # heeded within the compiler
        if images_per_chip != 2:
            raise KeyboardInterrupt
        return compile_(config, devices, step, images_per_chip, limit=limit)

    monkeypatch.setattr(performance_preflight, "compile_step", interrupted)
    config.batch_size = 32
    with pytest.raises(KeyboardInterrupt):
        preflight.run(config, workdir=tmp_path, topology="v5e:4x4")
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert (report["fits"], report["largest_batch"]) == (True, 32)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize(("parallel", "joined"), [("pmap", True), ("jit", False)])
def test_lowers_for_gpus(config, tmp_path, capsys, parallel, joined):
    config.parallel = parallel
    preflight.run(config, workdir=tmp_path, topology="4", platform="cuda")
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert report["fits"] is None
    assert report["memory_per_chip_gib"] is None
    assert report["chips"] == 4
    # Of each of the 18 norms mean and mean of squares, there and back; and each gradient.
    state = preflight.planned_of(RunOptions.of(config)).training.state_shapes()
    gradients = len(jax.tree.leaves(state.generator["params"]))
    metrics = 2  # the intensity loss and the generator's
    assert report["all_reduces"] == (4 * 18 + gradients + metrics if joined else None)
    assert report["operations"]["train"]["convolution"] > report["operations"]["evaluation"][
        "convolution"] > 10
    assert "not known without a GPU" in capsys.readouterr().out


OUT_OF_MEMORY = [
    ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
     "Used 21.95G of 15.48G hbm. Exceeded hbm capacity by 6.47G.", 21.95, 15.48),
    ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
     "required for HLO temporaries (2.00T) exceeds available HBM (15.75G). HLO module: jit_f.",
     2048, 15.75),
    ("RESOURCE_EXHAUSTED: … Used 900.50M of 0.5G hbm", 900.5 / 1024, 0.5)]


@pytest.mark.parametrize(("message", "needed", "available"), OUT_OF_MEMORY)
def test_reads_what_a_program_would_take(message, needed, available):
    error = jax.errors.JaxRuntimeError(message)
    found = tpu_slices.needed_and_available(error)
    assert [each / 2**30 for each in found] == pytest.approx([needed, available])


def test_another_error_of_the_compiler_is_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        tpu_slices.needed_and_available(jax.errors.JaxRuntimeError("INTERNAL: Used 1G of 2G hbm"))


@pytest.mark.parametrize(("options", "message"), [
    ({"topology": None}, "needs --topology=KIND:SHAPE"),
    ({"topology": "v5e"}, "'v5e'; expected a kind of chip and a shape, such as v5e:16x16; the "
                          "kinds are v5e, v5p, v6e"),
    ({"topology": "v9:2x2"}, "the kinds are v5e, v5p, v6e"),
    ({"topology": "v5e:0x2"}, "expected a kind of chip and a shape"),
    ({"topology": "v5e:2x2", "platform": "cuda"}, "expected a number of GPUs"),
    ({"topology": "4096", "platform": "cuda"}, "expected at most"),
])
def test_topologies_that_there_are_not(config, tmp_path, options, message):
    jax.devices()  # from here on there are no more of them
    with pytest.raises(InputError, match=message):
        preflight.run(config, workdir=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_missing_libtpu_is_told(config, tmp_path, monkeypatch):
    monkeypatch.setattr(tpu_slices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install libtpu"):
        preflight.run(config, workdir=tmp_path, topology="v5e:2x2")


def test_a_native_size_that_no_file_is_read_for(config, tmp_path):
    config.data.size = 0
    config.data.crop = 32
    config.data.train = "pairs.npy"
    with pytest.raises(InputError, match=r"config\.data\.size is 0"):
        preflight.run(config, workdir=tmp_path, topology="v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize(("topology", "chips", "gib"), [
    ("v5e:16x16", 256, 15.75), ("v5p:2x2x1", 4, 95.73), ("v6e:2x2", 4, 31.24)])
def test_slices_are_as_the_compiler_knows_them(topology, chips, gib):
    devices = tpu_slices.devices(topology)
    assert len(devices) == chips
    assert tpu_slices.memory_bytes(devices[0]) / 2**30 == pytest.approx(gib, abs=0.01)


@needs_libtpu
def test_a_shape_that_the_compiler_refuses():
    with pytest.raises(InputError, match=r"v5e:3x5.*not divisible"):
        tpu_slices.devices("v5e:3x5")


@needs_libtpu
def test_compiles_for_a_slice(config, tmp_path):
    config.batch_size = 4
    preflight.run(config, workdir=tmp_path, topology="v5e:2x2", search_limit_s=0)
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert report["fits"] is True
    assert 0 < report["memory_per_chip_gib"] < 1
    assert math.isclose(report["memory"]["train"]["total"], sum(
        size for name, size in report["memory"]["train"].items() if name != "total"),
        abs_tol=0.003)  # rounded
    assert {each["what"] for each in report["evaluation_collectives"]} == {"scores"}
    assert report["gradient_all_reduces"] == 1
    assert report["all_reduces"] == 1 + 18 + 18  # the norms' there and back
    state = preflight.planned_of(RunOptions.of(config)).training.state_shapes()
    gradients = sum(x.size for x in jax.tree.leaves(state.generator["params"]))
    assert report["collectives"][0]["bytes"] == 4 * (gradients + 2)


@needs_libtpu
def test_what_is_too_large_for_a_chip_is_told(tmp_path):
    config = attn.get_config("slides")
    config.data.size = 4096
    config.discriminators = "none"
    config.generator.architecture, config.generator.attention = "redcnn", False
    config.batch_size = 64
    with pytest.raises(SystemExit):
        preflight.run(config, workdir=tmp_path, topology="v5e:2x2", search_limit_s=0)
    report = json.loads((tmp_path / "preflight.json").read_text())
    assert report["fits"] is False
    assert report["memory_per_chip_gib"] > 15.75
