import functools

import jax
import jax.numpy as jnp
import numpy as np

from dfgan_jax.performance import collectives
from dfgan_jax.performance.collectives import Collective

# Lines of XLA's text of a training step for a v5e:2x2, shortened; the last four are of others.
RECORDED = """
HloModule jit__fun, is_scheduled=true
  %all-reduce.260 = (f32[4]{0:T(128)S(1)}, f32[4]{0:T(128)S(1)}) all-reduce(%fusion.110, \
%fusion.109), channel_id=1, metadata={op_name="jit(_fun)/shard_map/jvp(UNet)/inc/norm1/psum"}
  %all-reduce.261 = (f32[]{:T(128)}, f32[1]{0:T(128)}) all-reduce(%fusion.1, %fusion.2), \
metadata={op_name="jit(_fun)/shard_map/transpose(jvp(UNet))/up4_cbam/spatial_gate/norm/psum"}
  %all-reduce.208 = (f32[3,3,4,8]{3,2,1,0:T(4,128)S(1)}, bf16[8,1]{0,1:T(1,128)}, \
/*index=5*/f32[]{:T(128)}) all-reduce(%fusion.840, %copy-done.463, /*index=2*/%div.4156), \
metadata={op_name="jit(_fun)/shard_map/psum" stack_frame_id=279}
  %get-tuple-element.1 = f32[4]{0:T(128)S(1)} get-tuple-element(%all-reduce.260), index=0
  %all-gather-start.1 = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  ROOT %all-gather-done.1 = f32[8]{0} all-gather-done(%all-gather-start.1), \
metadata={op_name="jit(f)/all_gather"}
  %all-reduce.8 = (f32[3,5]{1,0}, f32[3]{0}) all-reduce(%dot.4, %fusion), metadata={op_name=\
"jit(step)/(transpose(jvp(UNet))/inc/norm1/mul:transpose(jvp(UNet))/inc/conv1/dot_general)"}
  %all-reduce.9 = pred[] all-reduce(%p), to_apply=%and
"""


def test_of_a_recorded_program():
    assert collectives.of_program(RECORDED) == [
        Collective("all-reduce", "gradients and metrics", 1, 4 * 288 + 2 * 8 + 4),
        Collective("all-reduce", "gradients", 1, 4 * (15 + 3)),
        Collective("all-reduce", "BatchNorm, forward", 1, 2 * 4 * 4),
        Collective("all-gather", "gradients", 1, 4 * 8),
        Collective("all-reduce", "BatchNorm, backward", 1, 4 + 4),
        Collective("all-reduce", "metrics", 1, 1)]


def step(params, batch, *, axis_name=None):
    """A layer, its norm and a second layer, with shapes that tell the arrays apart."""
    def loss(params):
        features = batch @ params["first"]
        with jax.named_scope("norm1"):
            mean = features.mean(0)
            if axis_name:
                mean = jax.lax.pmean(mean, axis_name)
        return jnp.square((features - mean) @ params["second"]).mean()

    found = jax.grad(loss)(params)
    return jax.lax.pmean(found, axis_name) if axis_name else found


PARAMS = {"first": np.zeros((5, 3), np.float32), "second": np.zeros((3, 2), np.float32)}


def test_of_a_program_over_four_devices():
    mapped = jax.pmap(functools.partial(step, axis_name="batch"), axis_name="batch",
                      in_axes=(None, 0), out_axes=None, devices=jax.devices()[:4])
    program = mapped.lower(PARAMS, np.zeros((4, 8, 5), np.float32)).compile()
    assert collectives.of_program(program.as_text()) == [
        Collective("all-reduce", "gradients", 1, 4 * (5 * 3 + 3 * 2)),
        Collective("all-reduce", "BatchNorm, forward", 1, 4 * 3),
        Collective("all-reduce", "BatchNorm, backward", 1, 4 * 3)]


def test_one_device_has_none():
    program = jax.jit(step).lower(PARAMS, np.zeros((8, 5), np.float32)).compile()
    assert collectives.of_program(program.as_text()) == []
