"""Functions of JAX that it leaves untyped, with their types."""

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, PyTree

configure: Callable[[str, object], None] = jax.config.update
block_until_ready: Callable[[PyTree], PyTree] = jax.block_until_ready
optimization_barrier: Callable[[Array], Array] = jax.lax.optimization_barrier
pmean: Callable[[PyTree, str], PyTree] = jax.lax.pmean
shape_struct: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct


def costs_of(program: jax.stages.Lowered | jax.stages.Compiled) -> Mapping[str, float]:
    """XLA's costs of a program; name → number."""
    costs: Mapping[str, float] | None = program.cost_analysis()
    assert costs is not None  # CPUs, GPUs and TPUs have them
    return costs
