import dataclasses
import json

import jax
import pytest

from configs import redcnn
from dfgan_jax.cli import benchmark
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.performance import measuring, speed_card
from dfgan_jax.performance.speed_card import Plan, Program
from dfgan_jax.performance.speed_table import comparison_words, table
from dfgan_jax.support.errors import InputError
from tests.cli.untrained import untrained

SMALL = {"inference_sizes": (), "matmul_size": 32, "copy_bytes": 4096, "seconds": 0,
         "time_limit_s": 1000, "slices": 1}
PLAN = Plan(**{**SMALL, "batch_sizes": {"float32": (2, 1), "bfloat16": (1,)},
               "inference_sizes": (32, 48)})


@pytest.fixture(scope="module")
def config():
    config = redcnn.get_config("demo")  # whose programs compile fastest
    config.data.size = 32
    config.discriminators = "none"
    config.generator.width = config.discriminator.width = 2
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("benchmark") / "run"
    benchmark.run(config, workdir=workdir, plan=PLAN)
    return json.loads((workdir / "benchmark.json").read_text())


def test_a_row_for_each_kind_size_dtype_and_batch(finished):
    assert [(row["dtype"], row["size"], row["batch"]) for row in finished["training"]] == [
        ("float32", 32, 1), ("float32", 32, 2), ("bfloat16", 32, 1)]
    assert [(row["dtype"], row["size"], row["batch"]) for row in finished["inference"]] == [
        ("float32", 32, 1), ("float32", 32, 2), ("float32", 48, 1), ("float32", 48, 2),
        ("bfloat16", 32, 1), ("bfloat16", 48, 1)]


def test_training_is_measured_on_crops_and_bfloat16_compared_on_slices(config):
    config = config.copy_and_resolve_references()
    config.data.size, config.data.crop = 48, 32
    subject = benchmark.subject_of(RunOptions.of(config))
    rows = speed_card._rows_of(PLAN, subject.size)
    assert {row["size"] for row in rows if row["kind"] == "training"} == {32}
    assert speed_card.compare_dtypes(subject, PLAN)["size"] == 48


def test_the_numbers_of_a_row_follow_from_each_other(finished):
    bandwidth = finished["peaks"]["memory"]["bytes_per_s"]
    for row in finished["training"] + finished["inference"]:
        peak = finished["peaks"]["matmul"][row["dtype"]]["flops_per_s"]
        assert row["status"] == "measured"
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row["repetitions"] == measuring.MIN_REPETITIONS
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["flops_per_s"] == pytest.approx(row["flops"] / row["median_s"])
        assert row["compute_utilisation"] == pytest.approx(row["flops_per_s"] / peak)
        assert row["bytes_per_s"] == pytest.approx(row["bytes_accessed"] / row["median_s"])
        assert row["bandwidth_utilisation"] == pytest.approx(row["bytes_per_s"] / bandwidth)
        assert row["peak_memory_bytes"] > row["batch"] * row["size"]**2 * 4


def test_operations_grow_with_pixels_and_memory_with_the_batch(config, finished):
    rows = {(row["dtype"], row["size"], row["batch"]): row for row in finished["inference"]}
    one, two, large = (rows["float32", *each] for each in ((32, 1), (32, 2), (48, 1)))
    program = speed_card.program_of(benchmark.subject_of(RunOptions.of(config)), one)
    # Counted at batch 2, where what does not grow with the batch is divided by 2.
    assert one["flops"] == pytest.approx(
        measuring.count_flops(program.function, program.first, program.batch), rel=0.05)
    assert two["flops"] == 2 * one["flops"] == 2 * rows["bfloat16", 32, 1]["flops"]
    # Pixels × features of each layer's smaller side; of two channels but the first layer and last.
    by_hand = [2 * (size - 4)**2 + sum(4 * (size - 4 * i)**2 for i in range(2, 6))
               for size in (32, 48)]
    assert large["flops"] / one["flops"] == pytest.approx(by_hand[1] / by_hand[0], rel=0.05)
    assert two["peak_memory_bytes"] > one["peak_memory_bytes"]
    assert finished["training"][0]["flops"] > 3 * one["flops"]


def test_the_rest_of_the_card(finished):
    assert finished["machine"]["devices"].endswith("cpu")
    assert finished["machine"]["jax"] == jax.__version__.split("+")[0]
    assert finished["compile"]["cold_s"] > 0
    assert finished["compile"]["warm_s"] > 0
    waiting = finished["input"]
    assert 0 <= waiting["waiting_share"] <= 1
    assert (waiting["kind"], waiting["batch"]) == ("training", 2)
    assert waiting["images_per_s"] == pytest.approx(2 / waiting["pipeline"]["median_s"])
    comparison = finished["bfloat16"]
    assert comparison["weights"] == "initial"
    assert 0 < comparison["rmse_hu_between"] < 20
    for name in ("psnr", "ssim"):
        assert comparison["difference"][name] == pytest.approx(
            comparison["bfloat16"][name] - comparison["float32"][name])
    text = table(finished)
    assert "RED-CNN on one of" in text
    assert "inference at 48²" in text


def test_what_does_not_fit_is_a_row_and_other_errors_are_errors(config, tmp_path, monkeypatch):
    compile_ = Program.on_device

    def refuse_large(self):
        if jax.tree.leaves(self.batch)[0].shape[0] == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 GiB")
        return compile_(self)

    monkeypatch.setattr(Program, "on_device", refuse_large)
    plan = Plan(**{**SMALL, "batch_sizes": {"float32": (2, 1)}})
    benchmark.run(config, workdir=tmp_path, plan=plan)
    card = json.loads((tmp_path / "benchmark.json").read_text())
    assert [(row["batch"], row["status"]) for row in card["training"]] == [
        (1, "measured"), (2, "does not fit")]
    assert card["input"]["status"] == "does not fit"

    def fail(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Program, "on_device", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        speed_card.unless_too_large(Program(len, {}, {}, (), "float32").on_device)


def test_rows_are_left_out_when_the_time_is_up_and_the_weights_are_those_given(
        config, finished, tmp_path, capsys):
    # With the same seed as `finished`.
    untrained(tmp_path / "trained", redcnn, discriminators="none")
    config = config.copy_and_resolve_references()
    config.seed = 1
    plan = Plan(**{**SMALL, "batch_sizes": {"float32": (1,)}, "time_limit_s": 0,
                             "inference_sizes": (32,)})
    benchmark.run(config, workdir=tmp_path / "out", plan=plan,
                  checkpoint_path=str(tmp_path / "trained"))
    card = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert {row["status"] for row in card["training"] + card["inference"]} == {
        "not measured: the time was up"}
    assert card["bfloat16"]["weights"] == str(tmp_path / "trained")
    assert card["bfloat16"]["float32"] == pytest.approx(finished["bfloat16"]["float32"])
    assert "float32       1  not measured: the time was up" in capsys.readouterr().out


def test_an_output_that_is_not_finite_is_told(config):
    subject = benchmark.subject_of(RunOptions.of(config))
    compared = speed_card.compare_dtypes(dataclasses.replace(subject, variables=jax.tree.map(
        lambda x: x + float("nan") * (x.dtype == "float32"), subject.variables)), PLAN)
    assert compared == {"slices": 1, "size": 32,
                        "status": "float32: the model: its output is not finite for slice 0"}
    assert comparison_words(compared) == compared["status"]


@pytest.mark.parametrize("accelerator", [True, False])
def test_plans_measure_both_dtypes(monkeypatch, accelerator):
    monkeypatch.setattr(speed_card.backend, "has_accelerator", lambda: accelerator)
    plan = Plan.for_machine()
    assert list(plan.batch_sizes) == ["float32", "bfloat16"]
    assert plan.inference_sizes == (256, 512)
    assert (16 in plan.batch_sizes["bfloat16"]) == accelerator


def test_a_checkpoint_that_is_not_there_is_told_before_anything_is_measured(config, tmp_path):
    with pytest.raises(InputError, match=r"absent: no such file or folder$"):
        benchmark.run(config, workdir=tmp_path / "out", checkpoint_path=str(tmp_path / "absent"))
    assert not (tmp_path / "out").exists()
