"""SqueezeNet and SqueezeNext, described once, as functions over the operations of `Ops`.

With Keras tensors they build the model that is trained (keras_model.py), with recorded nodes the
folded network that is compressed and exported without TensorFlow (graph.py). A layer's name says
its position in the network (`stage2_unit1_reduce1`), so that weights are found by name. Sources:
the official Caffe files, forresti/SqueezeNet and amirgholami/SqueezeNext; details that are not
obvious there are cited below.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from squeezenext.config import Config
from squeezenext.config.network import Activation, Fire, Initializer, SqueezeNet, SqueezeNext

CLASSIFIERS = ("classifier", "conv10")  # the layers whose shape follows the number of classes

T = TypeVar("T")
Kernel = tuple[int, int]
# train_val.prototxt of SqueezeNet: conv10 alone starts from a Gaussian of deviation 0.01.
Start = Initializer | Literal["gaussian"]


class Ops(Protocol[T]):
    """The operations of the networks. Tensors are [batch, height, width, channels]."""

    def input(self, size: int) -> T:
        """Returns the images: [batch, size, size, 3]."""

    def channels(self, x: T) -> int:
        """Returns the number of channels."""

    def conv(
        self,
        x: T,
        name: str,
        filters: int,
        kernel: Kernel,
        *,
        initializer: Start,
        strides: int = 1,
        groups: int = 1,
        same: bool = False,
        bias: bool = False,
    ) -> T:
        """Convolves; `same` pads with zeros to keep the sides, else only whole windows count."""

    def batch_norm(self, x: T, name: str) -> T:
        """Normalises each channel."""

    def activation(self, x: T, name: str, kind: Activation) -> T:
        """Applies ReLU or ELU."""

    def max_pool(self, x: T, name: str) -> T:
        """Pools 3x3 with stride 2 as Caffe does: the last window may reach over the far edge."""

    def pad(self, x: T, name: str, amount: int) -> T:
        """Puts zeros on all four sides."""

    def concat(self, tensors: Sequence[T], name: str) -> T:
        """Concatenates the channels."""

    def add(self, tensors: Sequence[T], name: str) -> T:
        """Adds tensors of one shape."""

    def dropout(self, x: T, name: str, rate: float) -> T:
        """Sets a share `rate` of the values to 0 in training and scales the others."""

    def global_pool(self, x: T, name: str) -> T:
        """Averages over height and width: [batch, channels]."""

    def dense(self, x: T, name: str, units: int, initializer: Start, bias: bool) -> T:
        """A matrix, and an offset where `bias`."""


def build_network(ops: Ops[T], config: Config, size: int | None = None) -> tuple[T, T]:
    """Returns the images, [batch, size, size, 3], and the logits, [batch, classes].

    Args:
      ops: the operations, on tensors of one kind.
      config: the network, and the images it reads.
      size: side of the input in pixels; default `config.images.size`.
    """
    images = ops.input(size or config.images.size)
    if isinstance(config.model, SqueezeNet):
        return images, _SqueezeNet(ops, config.model).logits(images)
    return images, _SqueezeNext(ops, config.model).logits(images)


class _SqueezeNet:
    def __init__(self, ops: Ops[T], model: SqueezeNet):
        self.ops, self.model = ops, model

    def logits(self, x: T) -> T:
        ops, model = self.ops, self.model
        x = self._conv(x, "conv1", model.stem_filters, model.stem_kernel, strides=2)
        x = ops.max_pool(x, "pool1")
        for number, fire in enumerate(model.fires, start=2):
            x = self._fire(x, f"fire{number}", fire)
            if number in model.pool_after:
                x = ops.max_pool(x, f"pool{number}")
        x = ops.dropout(x, "dropout", model.dropout)
        if model.head_padding:
            x = ops.pad(x, "conv10_padding", model.head_padding)
        x = self._conv(x, "conv10", model.classes, 1, initializer="gaussian")
        return ops.global_pool(x, "global_pool")

    def _fire(self, x: T, name: str, fire: Fire) -> T:
        ops = self.ops
        squeezed = self._conv(x, f"{name}_squeeze", fire.squeeze, 1)
        narrow = self._conv(squeezed, f"{name}_expand1x1", fire.expand_1x1, 1)
        wide = self._conv(squeezed, f"{name}_expand3x3", fire.expand_3x3, 3, same=True)
        outputs = ops.concat([narrow, wide], f"{name}_concat")
        if self.model.bypass == "none":
            return outputs
        filters = ops.channels(outputs)
        if ops.channels(x) != filters:
            if self.model.bypass == "simple":
                return outputs
            start = self.model.initializer
            x = ops.conv(x, f"{name}_bypass", filters, (1, 1), initializer=start, bias=True)
        # songhan/SqueezeNet-Residual: Eltwise SUM, no ReLU after it.
        return ops.add([x, outputs], f"{name}_add")

    def _conv(
        self,
        x: T,
        name: str,
        filters: int,
        side: int,
        strides: int = 1,
        same: bool = False,
        initializer: Start | None = None,
    ) -> T:
        """Returns convolution, bias and activation; SqueezeNet has no other kind of convolution."""
        x = self.ops.conv(
            x,
            name,
            filters,
            (side, side),
            initializer=initializer or self.model.initializer,
            strides=strides,
            same=same,
            bias=True,
        )
        kind = self.model.activation
        return self.ops.activation(x, f"{name}_{kind}", kind)


class _SqueezeNext:
    def __init__(self, ops: Ops[T], model: SqueezeNext):
        self.ops, self.model = ops, model

    def logits(self, x: T) -> T:
        ops, model = self.ops, self.model
        side = model.stem_kernel
        if model.stem_padding:
            x = ops.pad(x, "stem_padding", model.stem_padding)
        x = self._conv(x, "stem", model.stem_filters, (side, side), strides=2)
        x = ops.max_pool(x, "stem_pool")
        unit = 0
        for number, stage in enumerate(model.stages, start=1):
            for place in range(1, stage.units + 1):
                strides = stage.stride if place == 1 else 1
                name = f"stage{number}_unit{place}"
                # The pair's order flips every unit through the whole net, never restarting.
                tall_first = model.pair_order == "alternating" and unit % 2 == 0
                x = self._unit(x, name, stage.filters, strides, place == 1, tall_first)
                unit += 1
        x = self._conv(x, "head", model.head_filters, (1, 1))
        x = ops.global_pool(x, "global_pool")
        return ops.dense(x, "classifier", model.classes, "caffe_xavier", model.biases)

    def _unit(
        self, x: T, name: str, filters: int, strides: int, first: bool, tall_first: bool
    ) -> T:
        """Returns bottlenecks to 1/2 and 1/4, two separated convolutions, expansion, shortcut."""
        relu, groups = self.model.relu_before_add, self.model.groups
        shortcut = x
        if first:
            shortcut = self._conv(x, f"{name}_shortcut", filters, (1, 1), strides, relu=relu)
            if self.model.bottleneck_input == "shortcut":  # v5: only the shortcut strides
                x, strides = shortcut, 1
        x = self._conv(x, f"{name}_reduce1", filters // 2, (1, 1), strides, groups)
        x = self._conv(x, f"{name}_reduce2", filters // 4, (1, 1))
        pair = ((3, 1), (1, 3)) if tall_first else ((1, 3), (3, 1))
        for kernel in pair:
            place = f"{name}_conv{kernel[0]}x{kernel[1]}"
            x = self._conv(x, place, filters // 2, kernel, groups=groups, same=True)
        x = self._conv(x, f"{name}_expand", filters, (1, 1), relu=relu)
        x = self.ops.add([x, shortcut], f"{name}_add")
        return self.ops.activation(x, f"{name}_relu", "relu")

    def _conv(
        self,
        x: T,
        name: str,
        filters: int,
        kernel: Kernel,
        strides: int = 1,
        groups: int = 1,
        same: bool = False,
        relu: bool = True,
    ) -> T:
        """Returns convolution, batch norm and ReLU; SqueezeNext has no other kind."""
        x = self.ops.conv(
            x,
            name,
            filters,
            kernel,
            initializer="caffe_xavier",
            strides=strides,
            groups=groups,
            same=same,
            bias=self.model.biases,
        )
        x = self.ops.batch_norm(x, f"{name}_norm")
        return self.ops.activation(x, f"{name}_relu", "relu") if relu else x
