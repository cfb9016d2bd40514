"""Functions of JAX that it leaves untyped, with their types."""

from collections.abc import Callable

import jax
from jaxtyping import PyTree

configure: Callable[[str, object], None] = jax.config.update
block_until_ready: Callable[[PyTree], PyTree] = jax.block_until_ready
pmean: Callable[[PyTree, str], PyTree] = jax.lax.pmean
shape_struct: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct
