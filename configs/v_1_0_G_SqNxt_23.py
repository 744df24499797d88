"""1.0-G-SqNxt-23 (SqueezeNext, arXiv:1803.10615).

Caffe: 1.0-G-SqNxt-23/train_val.prototxt.

    bash run_train.sh --configuration v_1_0_G_SqNxt_23

543,072 parameters. Reported by the paper: 57.16 top-1, 80.23 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=7,
        stages=(
            Stage(filters=32, units=6, stride=1),
            Stage(filters=64, units=6, stride=2),
            Stage(filters=128, units=8, stride=2),
            Stage(filters=256, units=1, stride=2),
        ),
        groups=2,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
