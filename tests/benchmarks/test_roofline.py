import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import roofline


def test_kernels_are_found_in_nested_programs_as_often_as_they_run():
    kernel = jnp.ones((3, 3))

    def body(carry, _):
        return jax.nn.relu(carry @ kernel), None

    def function(x):
        x = jax.jit(lambda y: y @ kernel)(x)
        x, _ = jax.lax.scan(body, x, length=4)
        image = x.reshape(1, 3, 3, 1)
        return jax.lax.conv_general_dilated(
            image, jnp.ones((3, 3, 1, 2)), (2, 2), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    product, convolution = sorted(roofline.kernels_of(function, jnp.ones((3, 3))),
                                  key=lambda each: each[0].name)[::-1]
    assert (product[0].name, product[1]) == ("3×3 · 3×3 → 3×3", 5)
    assert product[0].bytes == 3 * 9 * 4
    assert convolution[0].name.startswith("1×3×3×1 · 3×3×1×2 → 1×2×2×2, stride 2×2")
    assert (convolution[0].bytes, convolution[1]) == (4 * (9 + 18 + 8), 1)
    x = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_allclose(product[0].function(x, np.eye(3, dtype=np.float32)), x)


def test_kernels_of_a_gradient_are_those_of_both_operands():
    """Forward, and the gradients of x and of w: three products of 5·4·3·2 operations each."""
    kernels = roofline.kernels_of(jax.grad(lambda x, w: (x @ w).sum(), argnums=(0, 1)),
                                  jnp.ones((5, 4)), jnp.ones((4, 3)))
    assert sum(count for _, count in kernels) == 3
    assert all(roofline.count_flops(kernel.function, *kernel.operands) == 120
               for kernel, _ in kernels)


def test_of_a_choice_by_platform_the_kernels_of_this_one_count():
    def twice(x):
        return x @ x @ x

    def function(x):
        return jax.lax.platform_dependent(x, **{jax.default_backend(): lambda x: x @ x},
                                          default=twice)

    assert [count for _, count in roofline.kernels_of(function, jnp.ones((3, 3)))] == [1]
    # The product and the gradients of both operands.
    assert sum(count for _, count in roofline.kernels_of(
        jax.grad(lambda x: function(x).sum()), jnp.ones((3, 3)))) == 3


def test_the_text_has_sums_over_all_kernels():
    row = {"kernel": "a · b", "count": 3, "flops": 2e9, "bytes": 8, "ms": 4.0, "bound_ms": 1.0,
           "bound_by": "products"}
    result = {"task": "training", "batch": 4, "size": 128, "peak_flops_per_s": 2e12,
              "bytes_per_s": 1e10, "step_ms": 20.0, "kernels": [row]}
    assert roofline.totals(result) == {"ms": 12.0, "bound_ms": pytest.approx(3.0)}
    text = roofline.as_text(result)
    assert "at most 2000 GFLOP/s and 10.0 GB/s" in text
    assert "    3    12.0                   25%      500  a · b (products)" in text
    assert text.endswith("all kernels alone 12 ms, at their bounds 3 ms; the whole program 20 ms")
