import jax
import numpy as np
import pytest

from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.evaluation import tables
from dfgan_jax.evaluation.rows import Row, input_row
from dfgan_jax.evaluation.speed import Speed, measure_speed
from dfgan_jax.models import convolution
from dfgan_jax.models.generators import build_generator, initial_variables


@pytest.fixture(scope="module")
def redcnn():
    generator = build_generator(architecture="redcnn", width=8)
    return generator, initial_variables(generator, jax.random.key(0))


def clock(monkeypatch, seconds):
    """Each call of the clock is later by the next number of seconds."""
    times = iter(np.cumsum(seconds))
    monkeypatch.setattr("time.perf_counter", lambda: next(times))


def test_operations_are_those_of_the_layers(redcnn):
    # Five layers of 5×5 from 64² to 44², and their five mirrors.
    encoder = 25 * (8 * 60**2 + 64 * (56**2 + 52**2 + 48**2 + 44**2))
    assert Denoiser(*redcnn).flops((64, 64)) == pytest.approx(2 * 2 * encoder, rel=0.1)
    assert Denoiser(*redcnn, self_ensemble=True).flops((64, 64)) == pytest.approx(
        16 * 2 * encoder, rel=0.1)


def test_operations_do_not_depend_on_the_form_of_the_convolutions(monkeypatch):
    generator = build_generator(width=24)
    variables = initial_variables(generator, jax.random.key(0))
    operations = Denoiser(generator, variables).flops((64, 64))
    monkeypatch.setattr(convolution, "WINOGRAD_SIZES", ())
    assert Denoiser(generator, variables).flops((64, 64)) == operations


def test_a_network_is_timed_by_batches(redcnn, monkeypatch):
    denoiser = Denoiser(*redcnn)
    row = Row(table=tables.Row(kind="model"), denoise=lambda hu, bar: hu, denoiser=denoiser)
    qdct = np.zeros((6, 64, 64), np.float32)
    monkeypatch.setattr(Denoiser, "slices_per_batch", lambda self, size, count: 4)
    clock(monkeypatch, [0, 0.1, 0, 0.8, 0, 0.2])
    speed = measure_speed(row, qdct, first_s=9.0)
    assert speed is not None
    assert speed.slices_per_s == pytest.approx(4 / 0.2)
    assert speed.gflop == denoiser.flops((64, 64)) / 1e9


def test_a_batch_is_timed_full(redcnn, monkeypatch):
    """Five slices are denoised as a batch of eight, which takes the time of eight."""
    denoised = []

    def denoise(hu, bar):
        denoised.append(hu[:, 0, 0].tolist())
        return hu

    row = Row(table=tables.Row(kind="model"), denoise=denoise, denoiser=Denoiser(*redcnn))
    qdct = np.arange(5, dtype=np.float32)[:, None, None] + np.zeros((64, 64), np.float32)
    monkeypatch.setattr(Denoiser, "slices_per_batch", lambda self, size, count: 8)
    clock(monkeypatch, [0, 2.0])
    speed = measure_speed(row, qdct, first_s=9.0)
    assert denoised == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert speed.slices_per_s == pytest.approx(8 / 2.0)


def test_a_classical_denoiser_is_timed_on_the_middle_slice(monkeypatch):
    seen = []

    def denoise(hu, bar):
        seen.append(hu)
        return hu

    row = Row(table=tables.Row(kind="baseline"), denoise=denoise)
    clock(monkeypatch, [0, 2.5])
    assert measure_speed(row, np.arange(5.0).reshape(5, 1, 1), first_s=9.0) == Speed(
        slices_per_s=0.4, gflop=None)
    assert [hu.item() for hu in seen] == [2]


def test_a_users_own_function_is_timed_on_all_slices(monkeypatch):
    own = Row(table=tables.Row(kind="model"), denoise=lambda hu, bar: hu)
    clock(monkeypatch, [0, 4])
    assert measure_speed(own, np.zeros((2, 8, 8), np.float32), first_s=0.5) == Speed(
        slices_per_s=0.5, gflop=None)


def test_a_slow_function_of_a_user_is_not_called_again():
    own = Row(table=tables.Row(kind="model"), denoise=lambda hu, bar: pytest.fail("called"))
    assert measure_speed(own, np.zeros((2, 8, 8), np.float32), first_s=8.0) == Speed(
        slices_per_s=0.25, gflop=None)


def test_the_input_and_slices_denoised_elsewhere_have_no_speed():
    qdct = np.zeros((2, 8, 8), np.float32)
    assert measure_speed(input_row(), qdct, first_s=0.0) is None
    elsewhere = Row(table=tables.Row(kind="model"), denoise=lambda hu, bar: hu, is_function=False)
    assert measure_speed(elsewhere, qdct, first_s=0.0) is None
