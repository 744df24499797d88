"""Published figures of the variants: what a paper or an author reports, not what we measured."""

from typing import NamedTuple

_PAPER = "arXiv:1803.10615"
_PYTORCHCV = "pytorchcv, TensorFlow port"


class Reported(NamedTuple):
    """The published figures of one variant.

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


# By the name of the configuration; variants without published figures are absent.
REPORTED = {
    "squeezenet_v1_0": Reported(57.5, 80.3, "arXiv:1602.07360"),
    "squeezenet_v1_0_complex_bypass": Reported(58.8, 82.0, "arXiv:1602.07360"),
    "squeezenet_v1_0_simple_bypass": Reported(60.38, 82.50, "songhan/SqueezeNet-Residual"),
    "squeezenet_v1_0_torchvision": Reported(58.09, 80.42, "torchvision"),
    "squeezenet_v1_1": Reported(None, 80.3, "forresti/SqueezeNet (at least)"),
    "squeezenet_v1_1_torchvision": Reported(58.18, 80.62, "torchvision"),
    "sqnxt23_w1": Reported(57.69, 81.39, _PYTORCHCV),
    "sqnxt23_w3d2": Reported(65.38, 86.66, _PYTORCHCV),
    "sqnxt23_w2": Reported(69.88, 89.31, _PYTORCHCV),
    "sqnxt23v5_w1": Reported(59.56, 82.38, _PYTORCHCV),
    "sqnxt23v5_w3d2": Reported(66.45, 87.16, _PYTORCHCV),
    "sqnxt23v5_w2": Reported(70.60, 89.74, _PYTORCHCV),
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
}
