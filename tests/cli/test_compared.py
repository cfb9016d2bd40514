import pytest

from configs import redcnn
from dfgan_jax.cli import compared
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.training.writers import MetricsWriter
from tests.cli.untrained import untrained


@pytest.mark.parametrize(("own", "further", "steps"), [
    (["a"], [], [7]), (["a"], ["b"], [7]), (["a", "b"], [], []), (["a", "b"], ["b"], [])])
def test_the_report_shows_the_training_of_one_whatever_stands_beside_it(
        tmp_path, monkeypatch, own, further, steps):
    """A model that is compared is no further one: `b` beside `b` is one row."""
    for name, step in (("a", 7), ("b", 8)):
        untrained(tmp_path / name, redcnn, discriminators="none", seed=step)
        with MetricsWriter(tmp_path / name, step=0) as writer:
            writer.write("train", step=step, epoch=1, metrics={"loss": 0.0})
    measured = {}

    class Recorded:
        def __init__(self, options, *, sources, data):
            pass

        def measure(self, models, *, given):
            measured["rows"] = [model.denoiser.home.name for model in models]

        def write(self, workdir, *, config, history):
            measured["steps"] = [row["step"] for row in history]

    monkeypatch.setattr(compared, "Comparison", Recorded)
    load = [[Denoiser.load(tmp_path / name) for name in names] for names in (own, further)]
    compared.compare(RunOptions.of(redcnn.get_config()), workdir=tmp_path, denoisers=load[0],
                     further=load[1], data={})
    assert measured == {"rows": list(dict.fromkeys(own + further)), "steps": steps}
