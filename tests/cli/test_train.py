import csv
import functools
import json
import math
import re
import shutil
import signal
import time
from unittest import mock

import jax
import ml_collections
import numpy as np
import pytest

from configs import cnn10
from dfgan_jax.checkpoints.folder import read_meta, restore
from dfgan_jax.checkpoints.networks import load_weights
from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.cli import train
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import read_pairs
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.errors import DivergenceError
from dfgan_jax.training.validation import Validation
from dfgan_jax.training.writers import read_history
from tests.cli import command
from tests.porting.test_weights import discriminator, generator, save

EPOCHS = 25
STEPS = 4 * EPOCHS
SMALLEST = ["--config.generator.architecture=cnn10", "--config.discriminators=none"]


def final_state(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    options = RunOptions.of(read_meta(folder)["config"])
    return restore(folder, options.training(total_steps=1).state_shapes())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing disturbed: its options, workdir and output.

    It trains a network that compiles fast, without discriminators: each start compiles or traces
    it again. The run of `recipe` is a GAN, that of `published` one with the U-Net.
    """
    folder = tmp_path_factory.mktemp("finished")
    options = [*command.TINY, *command.make_pairs(folder), f"--config.epochs={EPOCHS}",
               *SMALLEST]
    done = command.run(*options, f"--workdir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    return options, folder / "run", done


@pytest.mark.parametrize(("batch_size", "accumulate", "parallel", "told"), [
    # Of four devices.
    (2, 1, "auto", "2 leaves 2 of 4 devices idle; the next that uses all is 4"),
    (6, 1, "auto", "6 leaves 1 of 4 devices idle; the next that uses all is 8"),
    (9, 3, "auto", "9 leaves 1 of 4 devices idle; the next that uses all is 12"),
    (8, 1, "auto", None),
    (8, 2, "pmap", None)])
def test_idle_devices_are_told_with_the_batch_that_uses_all(
        capsys, batch_size, accumulate, parallel, told):
    config = cnn10.get_config("demo")
    config.batch_size, config.accumulate, config.parallel = batch_size, accumulate, parallel
    train._devices(RunOptions.of(config))
    assert capsys.readouterr().err == (f"warning: config.batch_size={told}\n" if told else "")


def test_leaves_everything_a_run_promises(finished):
    _, workdir, done = finished
    for name in ("config.json", "metrics.jsonl", "results.json", "slices.csv", "report.html"):
        assert (workdir / name).stat().st_size > 0, name
    assert any((workdir / "tensorboard").iterdir())
    assert any((workdir / "figures").glob("*.png"))
    assert "CNN-10" in done.stdout
    assert "\x1b" not in done.stderr  # plain lines where there is no terminal
    assert re.search(rf"training: {STEPS}/{STEPS} steps \(100%\)", done.stderr)

    history = read_history(workdir)
    valid = [row for row in history if row["kind"] == "valid"]
    assert [row["epoch"] for row in valid] == list(range(1, EPOCHS + 1))
    assert [row["step"] for row in history if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert history[0]["generator_loss"] > valid[-1]["generator_loss"]  # it learned something


def test_results_agree_with_a_computation_of_their_own(finished):
    options, workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    test = read_pairs(next(option for option in options if option.startswith(
        "--config.data.test=")).split("=", 1)[1])
    ndct, qdct = hounsfield.mu_to_hu(test.ndct), hounsfield.mu_to_hu(test.qdct)
    denoised = Denoiser.load(workdir)(qdct)
    assert results["slices"] == 3
    protocol = results["protocols"]["full_range"]
    assert protocol["size"] == 32
    for row, image in zip(protocol["rows"], (qdct, denoised), strict=True):
        mse = np.mean((image - ndct) ** 2, axis=(1, 2), dtype=np.float64)
        assert row["psnr"] == pytest.approx(np.mean(10 * np.log10(4095**2 / mse)), abs=1e-3)
        assert row["rmse_hu"] == pytest.approx(np.mean(np.sqrt(mse)), rel=1e-4)
    published = results["protocols"]["published"]["rows"][0]
    mse = np.mean((qdct - ndct) ** 2, axis=(1, 2), dtype=np.float64)
    assert published["psnr"] == pytest.approx(
        np.mean(20 * np.log10(qdct.max()) - 10 * np.log10(mse)), abs=1e-3)

    with (workdir / "slices.csv").open() as file:
        rows = [row for row in csv.DictReader(file)
                if row["protocol"] == "full_range" and row["name"] == "CNN-10"]
    assert [int(row["slice"]) for row in rows] == [0, 1, 2]
    assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(
        protocol["rows"][1]["psnr"], abs=1e-4)


def test_the_best_checkpoint_is_the_one_evaluated(finished):
    _, workdir, done = finished
    valid = [row for row in read_history(workdir) if row["kind"] == "valid"]
    best_row = max(valid, key=lambda row: row["psnr"])
    best = best_row["step"]
    assert done.stderr.count("dB on the validation slices") == EPOCHS
    assert (f"epoch {best_row['epoch']}: {best_row['psnr']:.2f} dB on the validation slices, the "
            "best so far\n") in done.stderr
    assert (f"The checkpoint of epoch {best_row['epoch']} of {EPOCHS} is kept as the best\n"
            in done.stdout)
    assert json.loads((workdir / "results.json").read_text())["checkpoint"]["step"] == best
    kept = {int(p.name) for p in (workdir / "checkpoints").iterdir()}
    assert kept == {best, STEPS - 4, STEPS}


def test_a_second_start_only_evaluates_again(finished):
    options, workdir, _ = finished
    before = json.loads((workdir / "results.json").read_text())["protocols"]
    again = command.run(*options, f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert f"Going on from step {STEPS}" in again.stdout
    assert "training:" not in again.stderr
    assert json.loads((workdir / "results.json").read_text())["protocols"] == before


def test_evaluate_takes_a_model_of_another_config(finished, tmp_path):
    """The checkpoint brings its own architecture; the config brings the data."""
    options, workdir, _ = finished
    same = [option for option in options
            if option.startswith(("--config.data.", "--config.evaluation."))]
    done = command.run("--config=configs/attn.py", *same, "--mode=evaluate",
                       f"--checkpoint={workdir}", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((folder / "results.json").read_text())["protocols"]
                    for folder in (workdir, tmp_path))
    assert ours == theirs


def stop(options, workdir, number, after_step):
    """Starts a run, signals it once a step is written; returns its exit status and output."""
    log = workdir.parent / "log"
    process = command.start(*options, f"--workdir={workdir}", log=log)
    deadline = time.monotonic() + 200
    while not any(row["step"] >= after_step for row in read_history(workdir)):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(timeout=120), log.read_text()


def test_stopped_and_started_again_ends_bit_identical(finished, tmp_path):
    """By each signal in turn, the one that saves nothing last."""
    options, undisturbed, _ = finished
    workdir = tmp_path / "run"
    reached = 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        status, output = stop(options, workdir, number, reached + 10)
        assert ("Going on from step" in output) == (reached > 0)
        if number == signal.SIGKILL:
            assert status == -signal.SIGKILL
        else:
            assert status == (130 if number == signal.SIGINT else 85)
            stopped = re.search(rf"Stopped by {number.name} at step (\d+), which is saved", output)
            assert stopped is not None, output
            assert reached + 10 <= int(stopped.group(1)) < STEPS
            assert (workdir / "checkpoints" / stopped.group(1)).is_dir()
            reached = int(stopped.group(1))
    again = command.run(*options, f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert "Going on from step" in again.stdout
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir, STEPS),
                 final_state(undisturbed, STEPS))
    steps = [row["step"] for row in read_history(workdir) if row["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def finished_on_device(finished, tmp_path_factory):
    """The same, with pairs on the device, several steps a call, and few checkpoints."""
    options = [*finished[0], "--config.data.on_device=always", "--config.log_every_steps=3",
               "--config.checkpoint_after_seconds=1e6"]
    workdir = tmp_path_factory.mktemp("finished_on_device") / "run"
    done = command.run(*options, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return options, workdir, done


def test_pairs_on_the_device_give_the_same_training(finished, finished_on_device):
    _, workdir, done = finished_on_device
    assert "on the device" in done.stdout
    rows, expected = (read_history(folder) for folder in (workdir, finished[1]))
    # 4 steps an epoch, a row after each third step and each epoch.
    assert [row["step"] for row in rows if row["kind"] == "train"] == [
        step for step in range(1, STEPS + 1) if step % 3 == 0 or step % 4 == 0]
    losses, expected = ([row["generator_loss"] for row in each if row["kind"] == "valid"]
                        for each in (rows, expected))
    np.testing.assert_allclose(losses, expected, rtol=0.05)


def test_epochs_too_soon_for_a_checkpoint_leave_the_best_and_the_last(finished_on_device):
    _, workdir, _ = finished_on_device
    valid = [row for row in read_history(workdir) if row["kind"] == "valid"]
    best = max(valid, key=lambda row: row["psnr"])["step"]
    waited = max(valid[:-1], key=lambda row: row["psnr"])["step"]
    assert {int(p.name) for p in (workdir / "checkpoints").iterdir()} == {waited, STEPS}
    assert json.loads((workdir / "results.json").read_text())["checkpoint"]["step"] == best


def test_a_divergence_leaves_the_epoch_that_waits(finished_on_device, tmp_path, monkeypatch):
    validate = Validation.__call__

    def diverges_in_the_third_epoch(self, state, poll):
        state, scores = validate(self, state, poll)
        return state, scores | ({"psnr": math.nan} if int(state.step) == 12 else {})

    monkeypatch.setattr(Validation, "__call__", diverges_in_the_third_epoch)
    config = ml_collections.ConfigDict(json.loads(
        (finished_on_device[1] / "config.json").read_text()))
    with pytest.raises(DivergenceError, match="after epoch 3"):
        train.run(config, workdir=tmp_path)
    saved = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert len(saved) == 1
    assert saved <= {4, 8}


def test_stopped_in_a_validation_and_started_again_validates_first(
        finished_on_device, tmp_path, monkeypatch):
    options, undisturbed, _ = finished_on_device
    workdir = tmp_path / "run"
    validate = Validation.__call__

    def is_told_to_stop(self, state, poll):
        if int(state.step) == 12:
            signal.raise_signal(signal.SIGTERM)
        return validate(self, state, poll)

    config = ml_collections.ConfigDict(json.loads((undisturbed / "config.json").read_text()))
    with monkeypatch.context() as patched:
        patched.setattr(Validation, "__call__", is_told_to_stop)
        with pytest.raises(SystemExit) as stopped:
            train.run(config, workdir=workdir)
    assert stopped.value.code == 85
    assert read_meta(workdir / "checkpoints" / "12")["score"] is None
    again = command.run(*options, f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert "Going on from step 12" in again.stdout
    # This process has several devices, which round otherwise.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
                 final_state(workdir, STEPS), final_state(undisturbed, STEPS))
    rows, expected = ([(row["kind"], row["step"]) for row in read_history(folder)]
                      for folder in (workdir, undisturbed))
    assert rows == expected


def test_stopped_on_the_device_and_started_again_ends_bit_identical(finished_on_device, tmp_path):
    options, undisturbed, _ = finished_on_device
    workdir = tmp_path / "run"
    status, output = stop(options, workdir, signal.SIGTERM, 30)
    assert status == 85, output
    again = command.run(*options, f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert "Going on from step" in again.stdout
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir, STEPS),
                 final_state(undisturbed, STEPS))
    assert {p.name for p in (workdir / "checkpoints").iterdir()} >= {
        p.name for p in (undisturbed / "checkpoints").iterdir()}


def test_goes_on_only_with_the_data_it_was_started_with(finished, tmp_path):
    _, workdir, _ = finished
    copied = tmp_path / "run"
    shutil.copytree(workdir, copied)
    other = command.make_pairs(tmp_path, train=6)
    done = command.run(*command.TINY, *other, *SMALLEST, f"--workdir={copied}",
                       f"--config.epochs={EPOCHS}")
    assert done.returncode == 1
    assert "data.train: 6 slices, not those this run was started with" in done.stderr


def test_refuses_parts_that_do_not_divide_the_batch(tmp_path):
    done = command.run(*command.TINY, "--config.accumulate=3", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert done.stderr == "error: config.batch_size is 2: expected a multiple of accumulate (3)\n"


def test_two_patients_train_without_a_test_split_which_may_come_later(tmp_path):
    *options, test = command.make_pairs(tmp_path)
    options = [*command.TINY, *options, *SMALLEST, "--config.epochs=1",
               f"--workdir={tmp_path / 'run'}"]
    done = command.run(*options)
    assert done.returncode == 0, done.stderr
    assert ", no test split," in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "There is no test split (config.data.test is empty), so nothing is evaluated")
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()
    assert not (tmp_path / "run" / "results.json").exists()
    again = command.run(*options, test)
    assert again.returncode == 0, again.stderr
    assert "Going on from step 4\n" in again.stdout
    assert json.loads((tmp_path / "run" / "results.json").read_text())["slices"] == 3


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_good_checkpoint(
        finished, tmp_path):
    options, undisturbed, _ = finished
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    # The saved state is finite; the loss of its next steps cannot be.
    folder = workdir / "checkpoints" / str(STEPS)
    state = final_state(workdir, STEPS)
    last = state.generator["params"]["conv3"]
    last["kernel"] = np.full_like(last["kernel"], 3e38)
    meta = read_meta(folder)
    with Checkpoints(workdir) as kept:
        kept.save(state.replace(step=np.int32(STEPS + 1)), {**meta, "step": STEPS + 1})
        kept.wait()
    bad = command.run(*options, f"--workdir={workdir}", f"--config.epochs={EPOCHS + 8}")
    assert bad.returncode == 1
    assert re.search(rf"error: at step ({STEPS + 2}|{STEPS + 3}), .*generator_loss is (inf|nan)",
                     bad.stderr)
    assert "Traceback" not in bad.stderr
    assert read_meta(workdir / "checkpoints" / str(STEPS + 1))["step"] == STEPS + 1


def test_a_run_goes_on_without_the_weights_that_it_started_from(finished, tmp_path):
    options, trained, _ = finished
    shutil.copytree(trained, tmp_path / "former")
    command_line = [*options, "--config.epochs=1",
                    f"--config.initial_checkpoint={tmp_path / 'former'}",
                    f"--workdir={tmp_path / 'run'}"]
    first = command.run(*command_line)
    assert first.returncode == 0, first.stderr
    assert "Starting from" in first.stdout
    shutil.rmtree(tmp_path / "former")
    again = command.run(*command_line)
    assert again.returncode == 0, again.stderr
    assert "Going on from step" in again.stdout
    assert "Starting from" not in again.stdout


def test_a_workdir_of_another_config_is_refused_and_left_alone(finished):
    options, workdir, _ = finished
    before = (workdir / "config.json").read_bytes()
    other = command.run(*options, f"--workdir={workdir}", "--config.generator.width=4")
    assert other.returncode == 1
    assert ("another configuration: 1 differing field, the first generator.width: 2 there, 4 here"
            in other.stderr)
    assert (workdir / "config.json").read_bytes() == before


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A run of the published variant from a file of weights: that file's content, workdir, output.

    With a learning rate that moves nothing, it ends with the weights it was given.
    """
    folder = tmp_path_factory.mktemp("published")
    given = {"G": generator(attention=True), "D": discriminator()}
    done = command.run("--config=configs/attn.py:published", *command.TINY[1:],
                       *command.make_pairs(folder), f"--workdir={folder / 'run'}",
                       "--config.epochs=2", "--config.validation.first_epoch=2",
                       f"--config.initial_checkpoint={save(folder / 'gan.pth', given)}",
                       "--config.optimizer.generator_learning_rate=1e-30",
                       "--config.optimizer.discriminator_learning_rate=1e-30")
    assert done.returncode == 0, done.stderr
    return given, folder / "run", done


def test_the_published_variant_runs_with_its_quirks(published):
    _, workdir, _ = published
    history = read_history(workdir)
    assert {"gradient_image_loss", "gradient_difference_loss"} <= set(history[0])
    results = json.loads((workdir / "results.json").read_text())
    assert results["model"] == "AttnDFGAN"
    assert results["checkpoint"]["epoch"] == 2
    assert all(math.isfinite(row["psnr"]) for row in results["protocols"]["published"]["rows"])
    state = final_state(workdir, 8)
    assert list(state.discriminators) == ["joint"]


def test_starts_from_a_file_of_weights(published):
    given, workdir, done = published
    path = workdir.parent / "gan.pth"
    assert f"Starting from {path}: the generator and the discriminators" in done.stdout
    weights = load_weights([workdir]).weights.state_dicts()
    for name, there in (("generator", given["G"]), ("joint", given["D"])):
        for key, array in there.items():
            if "running" not in key and "num_batches" not in key:
                np.testing.assert_array_equal(weights[name][key], array)
    # Its statistics moved on from those given: each step keeps 0.9 of them.
    key = "inc.conv.conv.1.running_mean"
    assert not np.array_equal(weights["generator"][key], given["G"][key])
    there = json.loads((workdir / "config.json").read_text())
    assert there["initial_checkpoint"] == str(path)


@pytest.mark.parametrize(("options", "message"), [
    (["--config.initial_checkpoint=absent", *SMALLEST],
     "absent: no such file or folder, nor pretrained"),
    (["--config.generator.attention=True", "--config.initial_checkpoint={given}"],
     "its generator (unet, width 2, no attention) is not that of the configur"),
    (["--config.generator.output=difference", "--config.initial_checkpoint={given}"],
     "config.generator.output is 'difference'; expected 'image', as in the training of initial_"),
    (["--checkpoint={given}"], "give --config.initial_checkpoint=PATH"),
])
def test_weights_that_training_cannot_start_from_are_told(tmp_path, options, message):
    given = save(tmp_path / "gan.pth", generator())
    done = command.run(*command.TINY, *command.make_pairs(tmp_path), "--config.epochs=1",
                       "--config.discriminators=none",  # whose first weights take long to compile
                       *(option.format(given=given) for option in options),
                       f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "run" / "config.json").exists()


RECIPE = ["--config=configs/cnn10.py", "--config.discriminators=pair", *command.TINY[1:],
          "--config.data.crop=32", "--config.epochs=2", "--config.validation.slices=2",
          "--config.evaluation.protocols=redcnn"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A GAN trained by the recipe on crops of two files, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("recipe")
    first = command.make_pairs(folder / "first", size=64)
    second = command.make_pairs(folder / "second", size=48, train=4, seed=1)
    train = ",".join(option.split("=", 1)[1] for option in (first[1], second[1]))
    options = [*RECIPE, first[0], f"--config.data.train={train}", *first[2:]]
    done = command.run(*options, f"--workdir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    return options, folder, done


def test_the_recipe_trains_on_crops_of_files_of_several_sizes(recipe):
    _, folder, done = recipe
    assert "64×64, 48×48, in crops of 32×32" in done.stdout
    history = read_history(folder / "run")
    assert history[-1]["step"] == 2 * 6  # 8 + 4 slices, in batches of 2
    state = final_state(folder / "run", 12)
    # The average is what is validated, evaluated and saved as the model.
    weights = load_weights([folder / "run" / "checkpoints" / "12"]).weights
    for name, there in (("average", True), ("generator", False)):
        same = jax.tree.map(np.array_equal, getattr(state, name)["params"],
                            weights.generator["params"])
        assert all(jax.tree.leaves(same)) == there


def test_the_recipe_validates_on_some_slices(recipe):
    """The first and the last of three, as a computation of its own scores them."""
    options, folder, _ = recipe
    valid = read_pairs(next(option for option in options if option.startswith(
        "--config.data.valid=")).split("=", 1)[1])
    ndct, qdct = (hounsfield.mu_to_hu(dose)[[0, 2]] for dose in (valid.ndct, valid.qdct))
    denoised = Denoiser.load(folder / "run" / "checkpoints" / "12")(qdct)
    mse = np.mean((denoised - ndct) ** 2, axis=(1, 2), dtype=np.float64)
    assert read_history(folder / "run")[-1]["psnr"] == pytest.approx(
        np.mean(10 * np.log10(4095**2 / mse)), abs=1e-3)


def test_a_stopped_run_of_the_recipe_goes_on_bit_for_bit(recipe, tmp_path):
    options, folder, _ = recipe
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    again = command.run(*options, f"--workdir={tmp_path / 'run'}")
    assert again.returncode == 0, again.stderr
    assert "Going on from step 6" in again.stdout
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path / "run", 12),
                 final_state(folder / "run", 12))


def started_from(recipe, folder, *options):
    """The command that starts a run in a folder from the recipe's."""
    given, before, _ = recipe
    return command.run(*given, f"--config.initial_checkpoint={before / 'run'}", *options,
                       f"--workdir={folder / 'run'}")


@pytest.mark.parametrize(("options", "message"), [
    (["--config.data.crop=80"], "data.crop is 80, larger than slices of data.train (64×64)"),
    (["--config.optimizer.warm_up_steps=12"],
     "warm_up_steps is 12; expected fewer than the 12 updates"),
    (["--config.loss.adversarial_from_step=12"],
     "config.loss.adversarial_from_step is 12; expected fewer than the 12 updates"),
    (["--config.data.train_shares=0.5,0.6"], "config.data.train_shares is '0.5,0.6'; expected a"),
    (["--config.data.on_device=always"], "config.data.on_device is 'always'; expected 'never'"),
])
def test_what_contradicts_the_recipes_data_and_weights_is_told(recipe, tmp_path, options, message):
    done = started_from(recipe, tmp_path, *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_worse_epochs_do_not_replace_the_weights_that_a_run_started_from(recipe, tmp_path):
    done = started_from(recipe, tmp_path, "--config.epochs=1", "--config.discriminators=none",
                        "--config.optimizer.generator_learning_rate=1")
    assert done.returncode == 0, done.stderr
    assert "No epoch was better than the initial checkpoint: evaluating that" in done.stdout
    assert json.loads((tmp_path / "run" / "results.json").read_text())["checkpoint"]["step"] == 0
    before, after = (load_weights([each / "run"]).weights.generator["params"]
                     for each in (recipe[1], tmp_path))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_run_starts_from_the_average_of_another(recipe, tmp_path):
    done = started_from(recipe, tmp_path, "--config.epochs=1", "--config.discriminators=none",
                        "--config.optimizer.generator_learning_rate=1e-30")
    assert done.returncode == 0, done.stderr
    there = load_weights([recipe[1] / "run"]).weights.generator["params"]
    state = final_state(tmp_path / "run", 6)
    for tree in (state.generator, state.average):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), tree["params"],
                     there)


def test_stages_that_take_no_part_are_told(capsys):
    denoiser = mock.Mock(spec=Denoiser)
    denoiser.idle_stages.return_value = ["down4", "up1"]
    slices = np.zeros((1, 2, 3), np.float32)
    train._warn_of_idle_stages(denoiser, Pairs(slices, slices))
    np.testing.assert_array_equal(denoiser.idle_stages.call_args.args[0], slices[0] - 500)  # HU
    assert "warning: down4, up1 of the generator take no part" in capsys.readouterr().err
    denoiser.idle_stages.return_value = []
    train._warn_of_idle_stages(denoiser, Pairs(slices, slices))
    assert not capsys.readouterr().err
