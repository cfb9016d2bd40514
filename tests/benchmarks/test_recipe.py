import importlib
import json
import subprocess

import pytest

from benchmarks import recipe
from benchmarks.recipe import VARIANTS, Variant
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_configuration_and_changes_something(name):
    variant = VARIANTS[name]
    module, config_variant = variant.config.removeprefix("configs/").split(".py:")
    config = importlib.import_module(f"configs.{module}").get_config(config_variant)
    before = config.to_dict()
    config.update_from_flattened_dict({**recipe._COMMON, **variant.changes})
    RunOptions.of(config)
    for field, value in variant.changes.items():
        node = before
        for part in field.split("."):
            node = node[part]
        assert node != value or name == "slides", field


def test_options_name_the_configuration_the_seed_and_every_change(tmp_path):
    options = recipe.options(Variant("", {"loss.adversarial": 2.0}), seed=3, workdir=tmp_path,
                             more=["--config.epochs=5"])
    assert options[0] == "--config=configs/attn.py:demo"
    assert options[-1] == "--config.epochs=5"
    assert {"--config.seed=3", "--config.loss.adversarial=2.0", f"--workdir={tmp_path}",
            "--config.simulation.test_slices=1"} <= set(options)


def finish(workdir, *psnr):
    workdir.mkdir(parents=True)
    rows = [{"kind": "train", "step": 9, "epoch": 1, "psnr": 99.0},
            *({"kind": "valid", "step": 10 * i, "epoch": i, "psnr": value, "ssim": value / 100}
              for i, value in enumerate(psnr, start=1))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "results.json").write_text("{}")


def test_finished_runs_are_scored_by_their_best_validation_and_not_run_again(
        tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    finish(tmp_path / "recipe-0", 39.0, 41.0, 40.0)
    finish(tmp_path / "recipe-1", 42.0)
    found = recipe.run_all(["recipe"], seeds=[0, 1], workdir=tmp_path, more=[], workers=1)
    assert found == {"recipe": [{"psnr": 41.0, "ssim": 0.41, "steps": 30},
                                {"psnr": 42.0, "ssim": 0.42, "steps": 10}]}


def test_a_run_that_fails_is_named_by_its_log(tmp_path, monkeypatch):
    commands = []

    def failing(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(InputError, match=r"image-2\.log: the run ended with status 1"):
        recipe.run_all(["image"], seeds=[2], workdir=tmp_path, more=["--config.epochs=1"],
                       workers=1)
    assert "--config.generator.output=image" in commands[0]


def test_the_table_gives_means_deviations_and_differences_at_the_same_seed():
    def rows(*psnr):
        return [{"psnr": value, "ssim": 0.9, "steps": 1} for value in psnr]

    lines = recipe.table({"recipe": rows(40.0, 42.0), "image": rows(39.0, 40.0)}).splitlines()
    assert lines[2] == ("| AttnDFGAN, the recipe | 41.00 ± 1.41 | 0.9000 |  | 40.00, 42.00 |")
    assert lines[3] == ("| output: image | 39.50 ± 0.71 | 0.9000 | -1.50 ± 0.71 | 39.00, 40.00 |")
