from absl import flags

from benchmarks.comparison_plan import Machine, plan


def test_the_machine_decides_what_is_run():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["against_torch"])
    for is_gpu, training, inference in ((False, {(4, 128)}, {(1, 512), (2, 512), (4, 512)}),
                                        (True, {(16, 256), (64, 256)}, {(16, 512), (64, 512)})):
        first, second, *_ = plan(Machine(is_gpu, float("inf")))
        assert {(side.batch, side.size) for side in first.sides} == training
        assert {(side.batch, side.size) for side in second.sides} == inference
        assert {side.dtype for side in first.sides} == {"float32", *(["bfloat16"] * is_gpu)}
