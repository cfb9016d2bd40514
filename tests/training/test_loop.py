import itertools
import signal

import jax.numpy as jnp
import pytest

from dfgan_jax.devices import parallel
from dfgan_jax.training.compiled import CompiledSteps
from dfgan_jax.training.loop import Loop, LoopOptions
from dfgan_jax.training.metrics import Metrics
from dfgan_jax.training.saver import Saver
from dfgan_jax.training.stop_request import StopRequest
from dfgan_jax.training.validation import ValidationOptions
from tests.training.kept import Kept, counted


def loop_of(kept, *, score, first_epoch=1, every_s=1e6, asked=0, **options):
    """Three epochs of two steps, that validate by `score`, a function of the step."""
    stop = StopRequest(lambda _: asked)

    def validate(state, poll):
        poll()
        return state, {"psnr": score(int(state.step))}

    steps = CompiledSteps(
        advance=lambda state, step, most: (counted(state.step + 1), {"loss": jnp.zeros(1)}, 1),
        validate=validate, waited_s=lambda: 0.0)
    validation = ValidationOptions(statistics="running", first_epoch=first_epoch,
                                   select_by="psnr")
    return Loop(
        LoopOptions(epochs=3, log_every_steps=1, batch_size=1, accumulate=1,
                    checkpoint_every_minutes=1, checkpoint_after_seconds=0, validation=validation),
        steps=steps, per_epoch=2, origin={}, saver=Saver(kept, after_s=0, every_s=every_s),
        metrics=Metrics(None), stop=stop, **options)


def test_trained_weights_are_scored_before_they_are_trained_on(capsys):
    kept = Kept()
    assert loop_of(kept, score=lambda step: 40.0 - step, scores_start=True).run(counted(0)) is None
    assert kept.saved == [(0, 0, 40.0), (2, 2, 38.0), (4, 4, 36.0), (6, 6, 34.0)]
    assert "Before training: 40.00 dB on the validation slices" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "best"), [
    ({}, [2, 4]), ({"best_score": 40.5}, [4]), ({"best_score": 50.0}, []),
    ({"first_epoch": 2}, [4]), ({"scores_start": True}, [2, 4])])
def test_each_validation_is_told_and_whether_it_is_the_best_so_far(options, best, capsys):
    score = {0: 39.0, 2: 40.0, 4: 41.234, 6: 41.0}.__getitem__
    loop_of(Kept(), score=score, **options).run(counted(0))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert lines == [f"epoch {step // 2}: {score(step):.2f} dB on the validation slices"
                     f"{', the best so far' if step in best else ''}" for step in (2, 4, 6)]


@pytest.mark.parametrize("options", [{}, {"scores_start": True, "first_epoch": 2}])
def test_random_weights_are_not_and_neither_where_first_epochs_cannot_be_the_best(options):
    kept = Kept()
    loop_of(kept, score=float, **options).run(counted(0))
    assert [saved for _, saved, _ in kept.saved] == [2, 4, 6]


@pytest.mark.parametrize(("step", "expected"), [
    (1, (signal.SIGTERM, [(1, None)], [])), (2, (signal.SIGTERM, [(2, None)], [2])),
    (3, (signal.SIGTERM, [(2, None)], [2])), (4, (signal.SIGTERM, [(2, None)], [2])),
    (5, (signal.SIGTERM, [(2, 1.0), (3, None)], [])), (99, (None, [(2, 1.0), (6, 1.0)], []))])
def test_what_is_reached_is_saved_at_a_stop_after_what_has_waited(step, expected, monkeypatch):
    """Epochs of two steps, three of them, too short for a checkpoint of their own.

    The loop asks after each step, and after each of the two batches of a validation.
    """
    def validate(state, poll):
        poll()
        poll()
        return state, {"psnr": 1.0}

    monkeypatch.setattr(parallel, "copied", lambda state: state)
    options = LoopOptions(
        epochs=3, log_every_steps=1, batch_size=1, accumulate=1, checkpoint_every_minutes=1,
        checkpoint_after_seconds=0,
        validation=ValidationOptions(statistics="running", first_epoch=1, select_by="psnr"))
    kept, numbers = Kept(), itertools.count(1)
    stop = StopRequest(lambda _: int(next(numbers) == step) * signal.SIGTERM)
    steps = CompiledSteps(
        advance=lambda state, step, most: (counted(state.step + 1), {"loss": jnp.zeros(1)}, 1),
        validate=validate, waited_s=lambda: 0.0)
    loop = Loop(options, steps=steps, per_epoch=2, origin={},
                saver=Saver(kept, after_s=1e6, every_s=1e6), metrics=Metrics(None), stop=stop)
    number = loop.run(counted(0))
    assert (number, [saved[1:] for saved in kept.saved], kept.awaiting) == expected


def test_an_epoch_that_awaits_its_validation_is_scored_before_training_goes_on(capsys):
    kept = Kept()
    assert loop_of(kept, score=float, awaits_validation=True).run(counted(4)) is None
    assert kept.saved == [(4, 4, 4.0), (6, 6, 6.0)]
    assert kept.awaiting == []
    assert "epoch 2: 4.00 dB on the validation slices, the best so far\n" in capsys.readouterr().err


def test_so_is_the_last_epoch():
    kept = Kept()
    assert loop_of(kept, score=float, awaits_validation=True).run(counted(6)) is None
    assert kept.saved == [(6, 6, 6.0)]


def test_a_due_checkpoint_does_not_wait_for_the_validation():
    kept = Kept()
    loop_of(kept, score=float, every_s=-1).run(counted(2))
    assert kept.saved == [(3, 3, None), (4, 4, None), (4, 4, 4.0), (5, 5, None), (6, 6, None),
                          (6, 6, 6.0)]
    assert kept.awaiting == [4, 6]


def test_a_signal_before_anything_new_acts_as_outside_of_training(monkeypatch):
    """A launcher would start what is saved again and again, however little time it has."""
    monkeypatch.setattr(signal, "raise_signal", lambda number: None)
    kept = Kept()
    loop = loop_of(kept, score=float, awaits_validation=True, asked=signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        loop.run(counted(4))
    assert ended.value.code == 143
    assert kept.saved == []
