import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfgan_jax.models import convolution
from dfgan_jax.performance import measuring
from dfgan_jax.support.errors import InputError


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID",
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


IMAGES = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
# A multiplication and an addition for each result pixel, each weight of each feature.
CONVOLUTION_FLOPS = 2 * (2 * 14 * 14) * (3 * 3 * 3) * 5


def test_operations_of_a_convolution_are_those_counted_by_hand():
    assert measuring.count_flops(convolve, IMAGES, KERNEL) == CONVOLUTION_FLOPS


def test_what_is_computed_twice_counts_once():
    def twice(x, kernel):
        return convolve(x, kernel), convolve(x, kernel)

    assert measuring.count_flops(twice, IMAGES, KERNEL) == CONVOLUTION_FLOPS


def test_winograds_form_counts_as_the_sum_of_products():
    images = jax.ShapeDtypeStruct((1, 32, 32, 48), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 48, 48), jnp.float32)
    padded = functools.partial(convolution.convolve, stride=1, padding=1)
    # Without the products with padding.
    assert (measuring.count_flops(padded, images, kernel)
            == 2 * 48 * 48 * (3 * 32 - 2) ** 2)


def test_without_a_cpu_operations_cannot_be_counted(monkeypatch):
    def refuse(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", refuse)
    with pytest.raises(InputError, match="JAX_PLATFORMS=cpu leaves out; append ',cpu'"):
        measuring.count_flops(convolve, IMAGES, KERNEL)


def test_bytes_and_memory_of_a_program():
    compiled = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((1000,), jnp.float32)).compile()
    assert measuring.count_bytes(compiled) == 8000
    assert measuring.peak_memory(compiled) == 8000
    in_place = jax.jit(lambda x: x + 1, donate_argnums=0).lower(
        jax.ShapeDtypeStruct((1000,), jnp.float32)).compile()
    assert measuring.peak_memory(in_place) == 4000


def test_bytes_of_a_library_call_are_those_of_its_arrays_without_scratch():
    hlo = """
HloModule jit_step
ENTRY %main.4 (Arg_0.1: bf16[2,8,8,3], Arg_1.2: f32[3]) -> f32[] {
  %Arg_0.1 = bf16[2,8,8,3]{3,2,1,0} parameter(0), metadata={op_name="x"}
  %kernel.2 = f32[3]{0} parameter(1)
  %conv.3 = (bf16[2,8,8,1]{3,2,1,0}, u8[512]{0}) custom-call(%Arg_0.1, %kernel.2), window={}
  %part.5 = bf16[2,8,8,1]{3,2,1,0} get-tuple-element(%conv.3), index=0
  ROOT %scalar.4 = f32[] custom-call(%part.5), custom_call_target="sum"
}"""
    assert measuring._library_bytes(hlo) == (384 * 2 + 3 * 4 + 128 * 2) + (128 * 2 + 4)


@pytest.fixture
def clock(monkeypatch):
    """Time stands still but for what a test adds to `clock.now`."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_calls_are_timed_after_one_to_warm_up(clock):
    durations = iter([50, 1, 3, 2, 2, 4, 6, 1, 1])

    def call():
        clock.now += next(durations)

    assert measuring.time_calls(call, seconds=19, queued=2) == {
        "median_s": 2, "min_s": 1, "max_s": 5, "repetitions": 4}
    durations = iter([50, 1, 1, 1])
    assert measuring.time_calls(call, seconds=0)["repetitions"] == measuring.MIN_REPETITIONS


def test_peak_and_bandwidth_follow_from_the_median():
    peak = measuring.matmul_peak(64, "bfloat16", seconds=0)
    assert peak["flops_per_s"] * peak["median_s"] == pytest.approx(2 * 64**3)
    memory = measuring.memory_bandwidth(4096, seconds=0)
    assert memory["size_bytes"] == 4096
    assert memory["bytes_per_s"] * memory["median_s"] == pytest.approx(2 * 4096)


def test_waiting_is_the_share_of_the_time_before_a_batch_is_there(clock):
    def batches():
        while True:
            clock.now += 1
            yield np.zeros(1)

    def step(batch):
        clock.now += 3
        return batch

    assert measuring.waiting_share(batches(), step, seconds=15) == {
        "steps": 4, "seconds": 16, "waiting_share": 0.25}
    assert measuring.waiting_share(batches(), step, seconds=0)["steps"] == measuring.MIN_REPETITIONS


def test_a_program_is_compiled_cold_then_warm_and_the_settings_come_back():
    names = tuple(measuring._CACHE_OPTIONS)
    before = [getattr(jax.config, name) for name in names]
    folders = []

    def function(x):
        folders.append(jax.config.jax_compilation_cache_dir)
        return jnp.sin(x @ x)

    times, compiled = measuring.compile_times(lambda: jax.jit(function).lower(jnp.ones((4, 4))))
    assert set(times) == {"trace_s", "cold_s", "warm_s"}
    assert min(map(float, times.values())) > 0
    # Traced anew, so that nothing in memory is taken for the folder's.
    assert len(folders) == 2
    assert folders[0] == folders[1] != before[names.index("jax_compilation_cache_dir")]
    np.testing.assert_allclose(compiled(jnp.ones((4, 4))), np.sin(4) * np.ones((4, 4)), rtol=1e-6)
    assert [getattr(jax.config, name) for name in names] == before
