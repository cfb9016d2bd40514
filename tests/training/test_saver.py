import pytest

from dfgan_jax.training.saver import Saver
from tests.training.kept import Kept, counted


@pytest.mark.parametrize(("scores", "expected"), [
    ([1.0, 3.0, 2.0], (2.0, 2, 3.0)), ([None, None], (2.0, 2, None)), ([None, 5.0], (2.0, 2, 5.0)),
    ([5.0, None], (1.0, 1, 5.0))])
def test_of_epochs_that_wait_the_best_is_saved_once_or_the_latest(scores, expected):
    kept = Kept()
    saver = Saver(kept, after_s=10, every_s=60)
    for step, score in enumerate(scores, start=1):
        saver.keep(counted(step), {"step": step}, score)
    saver.save_kept()
    saver.save_kept()
    assert kept.saved == [expected]


def test_only_who_saves_is_due():
    savers = [Saver(kept, after_s=0, every_s=-1) for kept in (Kept(), None)]
    assert [saver.due() for saver in savers] == [True, False]
