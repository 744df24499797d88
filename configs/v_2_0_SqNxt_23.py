"""2.0-SqNxt-23 (SqueezeNext, arXiv:1803.10615).

Caffe: 2.0-SqNxt-23/train_val.prototxt.

    bash run_train.sh --configuration v_2_0_SqNxt_23

2,361,728 parameters. Reported by the paper: 67.18 top-1, 88.17 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=7,
        stages=(
            Stage(filters=64, units=6, stride=1),
            Stage(filters=128, units=6, stride=2),
            Stage(filters=256, units=8, stride=2),
            Stage(filters=512, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
