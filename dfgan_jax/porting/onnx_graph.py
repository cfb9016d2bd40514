"""Generators as ONNX graphs: HU in, HU out, for programs without Python or JAX.

The graph takes slices of any height and width. It holds all that `Denoiser` does around the
network: values below `hounsfield.LOWEST_HU` pass unchanged, other values are normalised, and sizes
that the network does not take are padded by reflection and cropped. Batch normalisation is part of
the convolutions.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dfgan_jax.models import cnn10, nafnet, redcnn, unet
from dfgan_jax.models.architecture import Architecture
from dfgan_jax.models.batch_norm import BatchNorm
from dfgan_jax.models.generators import options_of
from dfgan_jax.porting.weights import Weights
from dfgan_jax.scans import hounsfield

INPUT, OUTPUT = "qdct_hu", "denoised_hu"

OPSET = 21
"""Of ONNX 1.16 (2024): the first with group normalisation by channel."""

_IR_VERSION = 10

Tensors = Mapping[str, np.ndarray]
"""Key → array, in PyTorch's names and axes."""


class _Graph:
    """Nodes and constants in the order in which they are made; values are named by numbers."""

    def __init__(self, tensors: Tensors):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._tensors = tensors
        self._numbers = itertools.count()

    def __getitem__(self, key: str) -> np.ndarray:
        return np.asarray(self._tensors[key], np.float32)

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"c{next(self._numbers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one result, and returns the result's name."""
        return self.ops(kind, *inputs, results=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, results: int, **attributes: Any) -> Sequence[str]:
        names = [f"v{next(self._numbers)}" for _ in range(results)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def add(self, first: str, second: str) -> str:
        return self.op("Add", first, second)

    def mul(self, first: str, second: str) -> str:
        return self.op("Mul", first, second)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def affine(self, x: str, *, gain: float, offset: float) -> str:
        """x · gain + offset."""
        return self.add(self.mul(x, self.constant(gain)), self.constant(offset))

    def conv(self, x: str, key: str, *, padding: int = 0, stride: int = 1, group: int = 1,
             norm: str | None = None) -> str:
        """A convolution by its key, and the batch normalisation that follows it.

        Args:
          x: images.
          key: of the kernel and of its bias, where it has one, without `.weight` and `.bias`.
          padding: zeros on each side.
          stride: of the window.
          group: of channels.
          norm: key of the normalisation.
        """
        kernel = self[f"{key}.weight"]
        bias = self[f"{key}.bias"] if f"{key}.bias" in self._tensors else None
        if norm is not None:
            gain = self[f"{norm}.weight"] / np.sqrt(self[f"{norm}.running_var"] + BatchNorm.epsilon)
            kernel = kernel * gain[:, None, None, None]
            bias = self[f"{norm}.bias"] - self[f"{norm}.running_mean"] * gain
        given = [self.constant(each) for each in (kernel, bias) if each is not None]
        return self.op("Conv", x, *given, pads=[padding] * 4, strides=[stride] * 2, group=group,
                       kernel_shape=list(kernel.shape[2:]))

    def transposed_conv(self, x: str, key: str, *, stride: int = 1) -> str:
        kernel, bias = self[f"{key}.weight"], self[f"{key}.bias"]
        return self.op("ConvTranspose", x, self.constant(kernel), self.constant(bias),
                       strides=[stride] * 2, kernel_shape=list(kernel.shape[2:]))

    def dense(self, x: str, key: str) -> str:
        return self.op("Gemm", x, self.constant(self[f"{key}.weight"]),
                       self.constant(self[f"{key}.bias"]), transB=1)


def _cbam(g: _Graph, x: str, key: str, *, window: int) -> str:
    """See `models.cbam.CBAM`."""
    maxima = g.op("GlobalMaxPool", x)
    if window:
        # An image that is no larger than a window has one maximum, by which no average changes.
        maxima = g.op("GlobalAveragePool", g.op(
            "MaxPool", x, kernel_shape=[window] * 2, strides=[window] * 2, ceil_mode=1))

    def mlp(pooled: str) -> str:
        hidden = g.relu(g.dense(g.op("Flatten", pooled), f"{key}.ChannelGate.mlp.1"))
        return g.dense(hidden, f"{key}.ChannelGate.mlp.3")

    gate = g.op("Sigmoid", g.add(mlp(g.op("GlobalAveragePool", x)), mlp(maxima)))
    x = g.mul(x, g.op("Unsqueeze", gate, g.constant([2, 3], np.int64)))
    channels = g.constant([1], np.int64)
    pooled = g.op("Concat", g.op("ReduceMax", x, channels), g.op("ReduceMean", x, channels), axis=1)
    spatial = f"{key}.SpatialGate.spatial"
    return g.mul(x, g.op("Sigmoid", g.conv(pooled, f"{spatial}.conv", padding=3,
                                           norm=f"{spatial}.bn")))


def _unet(g: _Graph, image: str, options: unet.UNetOptions) -> str:
    """See `models.unet.UNet`."""
    def stage(x: str, key: str, *, cbam: str = "", halvings: int = 0) -> str:
        for place in (0, 3):
            norm = f"{key}.{place + 1}"
            x = g.conv(x, f"{key}.{place}", padding=1,
                       norm=norm if options.normalization == "batch" else None)
            if options.normalization == "group":
                x = g.op("GroupNormalization", x, g.constant(g[f"{norm}.weight"]),
                         g.constant(g[f"{norm}.bias"]), epsilon=1e-5,
                         num_groups=len(g[f"{norm}.weight"]) // unet.GROUP_SIZE)
            x = g.relu(x)
        if options.attention and cbam:
            window = options.gate_window and max(options.gate_window >> halvings, 1)
            x = _cbam(g, x, cbam, window=window)
        return x

    x, skips = stage(image, "inc.conv.conv"), []
    for i in (1, 2, 3, 4):
        skips.append(x)
        x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = stage(x, f"down{i}.mpconv.1.conv", cbam=f"down{i}.attn", halvings=i)
    for i in (1, 2, 3, 4):
        x = g.op("Concat", skips.pop(), g.transposed_conv(x, f"up{i}.up", stride=2), axis=1)
        x = stage(x, f"up{i}.conv.conv", cbam=f"up{i}.attn", halvings=4 - i)
        stride = 1 << (4 - i)
        if options.add_image:
            x = g.add(x, image if stride == 1 else g.conv(image, f"size_down{stride}",
                                                          stride=stride))
    x = g.conv(x, "outc", padding=1)
    return g.add(image, x) if options.output == "difference" else x


def _redcnn(g: _Graph, image: str, options: redcnn.REDCNNOptions) -> str:
    """See `models.redcnn.REDCNN`."""
    x, skips = image, [image]
    for i in (1, 2, 3, 4, 5):
        x = g.relu(g.conv(x, f"conv{i}"))
        if i in (2, 4):
            skips.append(x)
    for i in (1, 2, 3, 4, 5):
        x = g.transposed_conv(x, f"tconv{i}")
        x = g.relu(g.add(x, skips.pop()) if i in (1, 3, 5) else x)
    return x


def _cnn10(g: _Graph, image: str, options: cnn10.CNN10Options) -> str:
    """See `models.cnn10.CNN10`."""
    x = image
    for i, size in enumerate(cnn10.KERNEL_SIZES):
        x = g.conv(g.relu(x) if i else x, f"layers.{2 * i}", padding=size // 2)
    return x


def _nafnet(g: _Graph, image: str, options: nafnet.NAFNetOptions) -> str:
    """See `models.nafnet.NAFNet`."""
    def norm(x: str, key: str) -> str:
        last = g.op("LayerNormalization", g.op("Transpose", x, perm=[0, 2, 3, 1]),
                    g.constant(g[f"{key}.weight"]), g.constant(g[f"{key}.bias"]),
                    axis=-1, epsilon=nafnet.EPSILON)
        return g.op("Transpose", last, perm=[0, 3, 1, 2])

    def gate(x: str) -> str:
        return g.mul(*g.ops("Split", x, results=2, axis=1, num_outputs=2))

    def block(x: str, key: str) -> str:
        y = g.conv(norm(x, f"{key}.norm1"), f"{key}.conv1")
        y = gate(g.conv(y, f"{key}.conv2", padding=1, group=len(g[f"{key}.conv2.weight"])))
        y = g.mul(y, g.conv(g.op("GlobalAveragePool", y), f"{key}.sca.1"))
        x = g.add(x, g.mul(g.conv(y, f"{key}.conv3"), g.constant(g[f"{key}.beta"])))
        y = g.conv(gate(g.conv(norm(x, f"{key}.norm2"), f"{key}.conv4")), f"{key}.conv5")
        return g.add(x, g.mul(y, g.constant(g[f"{key}.gamma"])))

    def stage(x: str, key: str, count: int) -> str:
        for index in range(count):
            x = block(x, f"{key}.{index}")
        return x

    encoder, middle, decoder = nafnet.blocks_of(options)
    x, skips = g.conv(image, "intro", padding=1), []
    for level, count in enumerate(encoder):
        skips.append(stage(x, f"encoders.{level}", count))
        x = g.conv(skips[-1], f"downs.{level}", stride=2)
    x = stage(x, "middle_blks", middle)
    for level, count in enumerate(decoder):
        x = g.op("DepthToSpace", g.conv(x, f"ups.{level}.0"), blocksize=2, mode="CRD")
        x = stage(g.add(x, skips.pop()), f"decoders.{level}", count)
    return g.add(image, g.conv(x, "ending", padding=1))


_NETWORKS: Mapping[str, Callable[[_Graph, str, Any], str]] = {
    "unet": _unet, "redcnn": _redcnn, "cnn10": _cnn10, "nafnet": _nafnet}
"""Name of the architecture → its nodes, from an image on the network's own scale to another."""


def _reflected(g: _Graph, x: str, axis: int, architecture: Architecture[Any]) -> tuple[str, str]:
    """Pads an axis as `numpy.pad` does in mode `symmetric`, to a length that the network takes.

    Returns:
      The padded images, and the length before.
    """
    def integer(value: int) -> str:
        return g.constant(value, np.int64)

    length = g.op("Gather", g.op("Shape", x), integer(axis))
    multiple, least = architecture.size_multiple, architecture.min_size
    whole = g.mul(g.op("Div", g.add(length, integer(multiple - 1)), integer(multiple)),
                  integer(multiple))
    padded = g.op("Max", whole, integer(least))
    # Place i of the padded axis shows pixel i, or, in every second period, the mirrored one.
    period = g.mul(length, integer(2))
    place = g.op("Mod", g.op("Range", integer(0), padded, integer(1)), period)
    mirrored = g.op("Sub", g.op("Sub", period, integer(1)), place)
    return g.op("Gather", x, g.op("Min", place, mirrored), axis=axis), length


def build_onnx(weights: Weights, *, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The ONNX model of a generator.

    Its input `qdct_hu` and its output `denoised_hu` are float32 (batch, 1, height, width) in HU,
    of any size.

    Args:
      weights: of the generator.
      name: of the model, in the graph.
      metadata: for the file; name → text.

    Raises:
      InputError: the weights are of no known architecture.
    """
    architecture, own = options_of(**weights.options)
    g = _Graph(weights.state_dicts()["generator"])
    outside = g.op("Less", INPUT, g.constant(hounsfield.LOWEST_HU))
    x = g.op("Where", outside, g.constant(hounsfield.OUTSIDE_HU), INPUT)
    x, height = _reflected(g, x, 2, architecture)
    x, width = _reflected(g, x, 3, architecture)
    offset, plus_gain = architecture.scaled(np.array([0.0, 1.0]))
    gain = plus_gain - offset
    x = _NETWORKS[architecture.name](g, g.affine(x, gain=gain, offset=offset), own)
    x = g.affine(x, gain=1 / gain, offset=-offset / gain)
    sides = g.op("Concat", *(g.op("Unsqueeze", side, g.constant([0], np.int64))
                             for side in (height, width)), axis=0)
    x = g.op("Slice", x, g.constant([0, 0], np.int64), sides, g.constant([2, 3], np.int64))
    g.nodes.append(helper.make_node("Where", [outside, INPUT, x], [OUTPUT]))

    shape: list[str | int | None] = ["batch", 1, "height", "width"]
    graph = helper.make_graph(
        g.nodes, name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)], g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)],
                              ir_version=_IR_VERSION, producer_name="dfgan_jax")
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model
