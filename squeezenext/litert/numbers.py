"""How a LiteRT file stores numbers whose activations are float32: kernels of 32, 16 or 8 bits."""

from collections.abc import Mapping, Sequence

import numpy as np

from squeezenext.litert.flatbuffer import LitertFile


class Float32:
    """How numbers are stored: activations and weights are float32."""

    versions: Mapping[str, int] = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1}
    integer = False  # activations

    @property
    def classifier(self) -> "Float32":
        """How a dense classifier's weights are stored; what it reads and gives is float32."""
        return self

    def activation(self, file: LitertFile, name: str, shape: Sequence[int]) -> int:
        """Adds the tensor of a node's output, `shape` without the batch."""
        return file.tensor(name, (1, *shape), np.float32)

    def weights(
        self,
        file: LitertFile,
        name: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        source: str,
        axis: int = 0,
    ) -> list[int]:
        """Adds kernel and bias of the layer `name`, which reads `source`.

        Args:
          axis: of the kernel's output channels: the first, but the last in a depthwise one of
            [1, height, width, channels].
        """
        del source
        return [
            self._kernel(file, f"{name}/kernel", kernel, axis),
            file.tensor(f"{name}/bias", bias.shape, np.float32, bias),
        ]

    def _kernel(self, file: LitertFile, name: str, kernel: np.ndarray, axis: int) -> int:
        return file.tensor(name, kernel.shape, np.float32, kernel)


class Float16(Float32):
    """Kernels are float16 and made float32 once, when the file is loaded."""

    def _kernel(self, file: LitertFile, name: str, kernel: np.ndarray, axis: int) -> int:
        half = file.tensor(f"{name}_float16", kernel.shape, np.float16, kernel)
        whole = file.tensor(name, kernel.shape, np.float32)
        file.operator("DEQUANTIZE", 3, [half], [whole], {}, "DequantizeOptions")
        return whole


class DynamicRange(Float32):
    """Kernels are int8, a scale an output channel; activations and biases float32."""

    versions = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12}

    def _kernel(self, file: LitertFile, name: str, kernel: np.ndarray, axis: int) -> int:
        values, scale = quantize_kernel(kernel, axis)
        return file.tensor(name, kernel.shape, np.int8, values, scale, axis=axis)


def quantize_kernel(
    kernel: np.ndarray, axis: int, least: np.ndarray | float = 1e-12
) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 values in -127..127 and the float32 scale of each entry of `axis`."""
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    scale = np.maximum(np.abs(kernel).max(others) / 127, np.maximum(least, 1e-12))
    scale = scale.astype(np.float32)
    shaped = np.expand_dims(scale, others)
    return np.round(kernel / shaped).clip(-127, 127).astype(np.int8), scale
