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


@pytest.mark.parametrize(("step", "expected"), [
    (1, (signal.SIGTERM, [1])), (2, (signal.SIGTERM, [2])), (3, (signal.SIGTERM, [2, 3])),
    (99, (None, [2, 6]))])
def test_what_is_reached_is_saved_at_a_stop_after_what_has_waited(step, expected, monkeypatch):
    """Epochs of two steps, three of them, too short for a checkpoint of their own."""
    monkeypatch.setattr(parallel, "copied", lambda state: state)
    options = LoopOptions(
        epochs=3, log_every_steps=1, batch_size=1, accumulate=1, checkpoint_every_minutes=1,
        checkpoint_after_seconds=0,
        validation=ValidationOptions(statistics="running", first_epoch=1, select_by="psnr"))
    kept, numbers = Kept(), itertools.count(1)
    stop = StopRequest(lambda _: int(next(numbers) == step) * signal.SIGTERM)
    steps = CompiledSteps(
        advance=lambda state, step, most: (counted(state.step + 1), {"loss": jnp.zeros(1)}, 1),
        validate=lambda state: (state, {"psnr": 1.0}), waited_s=lambda: 0.0)
    loop = Loop(options, steps=steps, per_epoch=2, origin={},
                saver=Saver(kept, after_s=1e6, every_s=1e6), metrics=Metrics(None), stop=stop)
    number = loop.run(counted(0))
    assert (number, [saved for _, saved, _ in kept.saved]) == expected
