"""The jobs of `benchmarks.against_torch`: sides of the same task, which take turns."""

import itertools
import time
from typing import Any, NamedTuple

from absl import flags

from benchmarks.workload import Side, Task

_ROUNDS = flags.DEFINE_integer("rounds", None, "Turns of each side; 7, on a GPU 3.", lower_bound=1)
_SECONDS = flags.DEFINE_float(
    "seconds", None, "Length of a measurement [s], longer where three steps are; 1, on a GPU 0.3.",
    lower_bound=0)
_TRAINING_SIZE = flags.DEFINE_integer(
    "training_size", None, "Height and width in training [pixels]; 128, on a GPU 256.")
_TRAINING_BATCHES = flags.DEFINE_list(
    "training_batches", None, "Batch sizes in training; train_ratio is of the first. 4, on a GPU "
    "16,64.")
_INFERENCE_SIZE = flags.DEFINE_integer(
    "inference_size", 512, "Height and width in inference [pixels].")
_INFERENCE_BATCHES = flags.DEFINE_list(
    "inference_batches", None, "Batch sizes in inference; inference_ratio is of each framework's "
    "best. 1,2,4, on a GPU 16,64.")
_WIDTH = flags.DEFINE_integer("width", 32, "Channels of the generator's first stage.")
_DISCRIMINATOR_WIDTH = flags.DEFINE_integer(
    "discriminator_width", 128, "Channels of the discriminator's first layer.")
COMPILE_BUDGET = flags.DEFINE_float(
    "compile_budget", 120.0, "Longest time for torch.compile of one side [s]; 0: leave them out.")
GPU_BUDGET = flags.DEFINE_float(
    "gpu_budget", 150.0, "On a GPU, nothing new is begun after this time [s].")

for _name in ("training_size", "inference_size"):
    flags.register_validator(_name, lambda size: size is None or (size >= 32 and size % 16 == 0),
                             "expected a multiple of 16, at least 32")
for _name in ("training_batches", "inference_batches"):
    flags.register_validator(
        _name, lambda sizes: sizes is None or all(each.isdecimal() and int(each) for each in sizes),
        "expected sizes separated by commas, such as 16,64")

FLAGS = (_ROUNDS, _SECONDS, _TRAINING_SIZE, _TRAINING_BATCHES, _INFERENCE_SIZE, _INFERENCE_BATCHES,
         _WIDTH, _DISCRIMINATOR_WIDTH, COMPILE_BUDGET, GPU_BUDGET)


class Machine(NamedTuple):
    """The machine, on which the jobs depend.

    Attributes:
      is_gpu: both frameworks run on a GPU.
      deadline: no job begins after it (`time.monotonic`).
    """

    is_gpu: bool
    deadline: float

    @property
    def rounds(self) -> int:
        return _ROUNDS.value or (3 if self.is_gpu else 7)

    @property
    def seconds(self) -> float:
        """Length of a measurement."""
        return (0.3 if self.is_gpu else 1.0) if _SECONDS.value is None else _SECONDS.value

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


class Job(NamedTuple):
    """Sides of one task that take turns."""

    task: Task
    sides: tuple[Side, ...]


def plan(machine: Machine) -> list[Job]:
    """All jobs, essential ones first."""
    modes = (["default", "max-autotune-no-cudagraphs", "reduce-overhead"] if machine.is_gpu
             else ["default"])
    narrowest = "bfloat16" if machine.is_gpu else "float32"
    tasks: list[Task] = ["training", "inference"]
    if machine.is_gpu:
        tasks.append("inference on the device")
    ours = [("jax", "ours", dtype) for dtype in dict.fromkeys(["float32", narrowest])]
    uncompiled = [("torch", "eager", "float32"), ("torch", "channels_last", narrowest)]
    forms = [[*uncompiled, *ours]]
    if COMPILE_BUDGET.value:
        forms += [[("torch", mode, narrowest), ("jax", "ours", narrowest)] for mode in modes]
    ranked = sorted(itertools.product(range(len(forms)), tasks),
                    key=lambda each: (each[0] > 1, each[1] == "inference on the device", each[0]))
    return [Job(task, tuple(side_of(task, *form, batch=batch, machine=machine)
                            for batch in _batches(task, machine) for form in forms[index]))
            for index, task in ranked]


def _batches(task: Task, machine: Machine) -> list[int]:
    given, default = ((_TRAINING_BATCHES.value, [16, 64] if machine.is_gpu else [4])
                      if task == "training" else
                      (_INFERENCE_BATCHES.value, [16, 64] if machine.is_gpu else [1, 2, 4]))
    return [int(batch) for batch in given] if given else default


def side_of(task: Task, framework: Any, variant: str, dtype: Any, *, batch: int, machine: Machine
            ) -> Side:
    """A side with the sizes and widths of the flags, or the machine's defaults."""
    training_size = _TRAINING_SIZE.value or (256 if machine.is_gpu else 128)
    return Side(framework=framework, task=task, variant=variant, dtype=dtype, batch=batch,
                size=training_size if task == "training" else _INFERENCE_SIZE.value,
                width=_WIDTH.value, discriminator_width=_DISCRIMINATOR_WIDTH.value)
