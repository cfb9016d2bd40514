"""Functions of JAX that it leaves untyped, with their types."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
from jaxtyping import PyTree

T = TypeVar("T")

configure: Callable[[str, object], None] = jax.config.update
block_until_ready: Callable[[PyTree], PyTree] = jax.block_until_ready
pmean: Callable[[PyTree, str], PyTree] = jax.lax.pmean
shape_struct: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct


def optimization_barrier(operands: T) -> T:
    """Returns an array or a tree of arrays; XLA merges nothing before it with anything after."""
    barrier: Callable[[T], T] = jax.lax.optimization_barrier
    return barrier(operands)


def costs_of(program: jax.stages.Lowered | jax.stages.Compiled) -> Mapping[str, float]:
    """XLA's costs of a program; name → number."""
    costs: Mapping[str, float] | None = program.cost_analysis()
    assert costs is not None  # CPUs, GPUs and TPUs have them
    return costs
