"""Figures of networks: what a paper or an author reports, and apart from it what we measured."""

from typing import NamedTuple

_PAPER = "arXiv:1803.10615"
_PYTORCHCV = "pytorchcv"


class Reported(NamedTuple):
    """The published figures of one variant, or of one model that `config/zoo.py` names.

    Attributes:
      top_1: accuracy on ImageNet's validation images in percent, or None.
      top_5: accuracy on ImageNet's validation images in percent, or None.
      source: where the figures are published.
      parameters: millions, where the abstract states them, else None.
    """

    top_1: float | None
    top_5: float | None
    source: str
    parameters: float | None = None


# By the name of the configuration or model; those without published figures are absent.
REPORTED = {
    "squeezenet_v1_0": Reported(57.5, 80.3, "arXiv:1602.07360"),
    "squeezenet_v1_0_complex_bypass": Reported(58.8, 82.0, "arXiv:1602.07360"),
    "squeezenet_v1_0_simple_bypass": Reported(60.38, 82.50, "songhan/SqueezeNet-Residual"),
    "squeezenet_v1_0_torchvision": Reported(58.09, 80.42, "torchvision"),
    "squeezenet_v1_1": Reported(None, 80.3, "forresti/SqueezeNet (at least)"),
    "squeezenet_v1_1_torchvision": Reported(58.18, 80.62, "torchvision"),
    "sqnxt23_w1": Reported(57.49, 80.94, _PYTORCHCV),
    "sqnxt23_w3d2": Reported(65.11, 86.50, _PYTORCHCV),
    "sqnxt23_w2": Reported(69.38, 89.00, _PYTORCHCV),
    "sqnxt23v5_w1": Reported(59.23, 82.15, _PYTORCHCV),
    "sqnxt23v5_w3d2": Reported(66.19, 86.99, _PYTORCHCV),
    "sqnxt23v5_w2": Reported(70.37, 89.34, _PYTORCHCV),
    "squeezeresnet_v1_0": Reported(60.23, 81.91, _PYTORCHCV),
    "squeezeresnet_v1_1": Reported(59.91, 81.79, _PYTORCHCV),
    "v_1_0_G_SqNxt_23": Reported(57.16, 80.23, _PAPER, 0.54),
    "v_1_0_SqNxt_23": Reported(59.05, 82.60, _PAPER),
    "v_1_0_SqNxt_23_mod": Reported(55.0, 79.0, "the TensorFlow 1.8 predecessor, batch 256"),
    "v_1_0_SqNxt_23_v2": Reported(58.55, 82.09, _PAPER),
    "v_1_0_SqNxt_23_v3": Reported(58.18, 81.96, _PAPER),
    "v_1_0_SqNxt_23_v4": Reported(59.09, 82.41, _PAPER),
    "v_1_0_SqNxt_23_v5": Reported(59.24, 82.41, _PAPER),
    "v_1_0_SqNxt_34": Reported(61.39, 84.31, _PAPER),
    "v_1_0_SqNxt_44": Reported(62.64, 85.15, _PAPER),
    "v_1_5_SqNxt_23": Reported(63.52, 85.66, _PAPER),
    "v_1_5_SqNxt_34": Reported(66.00, 87.40, _PAPER),
    "v_1_5_SqNxt_44": Reported(67.28, 88.15, _PAPER),
    "v_2_0_SqNxt_23": Reported(67.18, 88.17, _PAPER),
    "v_2_0_SqNxt_23_v4": Reported(66.95, 87.89, _PAPER),
    "v_2_0_SqNxt_23_v5": Reported(67.44, 88.20, _PAPER),
    "v_2_0_SqNxt_34": Reported(68.46, 88.78, _PAPER),
    "v_2_0_SqNxt_44": Reported(69.59, 89.53, _PAPER, 4.4),
    # Published models that are not named as their configuration.
    "squeezenet_v1_0_caffe": Reported(57.5, 80.3, "arXiv:1602.07360"),
    "squeezenet_v1_0_dsd": Reported(61.76, 83.47, "songhan/SqueezeNet-DSD-Training"),
    "squeezenet_v1_0_pytorchcv": Reported(60.71, 82.34, _PYTORCHCV),
    "squeezenet_v1_1_caffe": Reported(None, 80.3, "forresti/SqueezeNet (at least)"),
    "squeezenet_v1_1_torchvision_float32": Reported(58.18, 80.62, "torchvision"),
    "squeezenet_v1_1_pytorchcv": Reported(60.69, 82.28, _PYTORCHCV),
}


class Measured(NamedTuple):
    """The accuracy and the size of one published model in one format, as we measured them.

    Attributes:
      bytes: the file's size.
      top_1: images named right, of the 100 of ImageNet that we have.
      top_5: images with the right class among the first five.
    """

    bytes: int
    top_1: int
    top_5: int


# By model and format: LiteRT in float32 and int8, and .sqz of at most 420,000 bytes, made without
# images. `python scripts/benchmarks/zoo.py --data_dir RECORDS`, 2026-11-30; .sqz as
# docs/compression.md says. The 100 images are one of every tenth class, and int8's ranges are
# those of the same images.
MEASURED: dict[str, dict[str, Measured]] = {
    "squeezenet_v1_0": {
        "float32": Measured(5_063_752, 64, 83),
        "int8": Measured(1_429_557, 64, 83),
        ".sqz": Measured(417_697, 65, 83),
    },
    "squeezenet_v1_1": {
        "float32": Measured(5_011_800, 68, 87),
        "int8": Measured(1_415_477, 67, 88),
    },
    "squeezenet_v1_1_caffe": {
        "float32": Measured(5_011_822, 68, 87),
        "int8": Measured(1_415_499, 69, 87),
    },
    "squeezenet_v1_1_torchvision": {
        "float32": Measured(5_011_966, 63, 89),
        "int8": Measured(1_415_627, 63, 89),
    },
}
