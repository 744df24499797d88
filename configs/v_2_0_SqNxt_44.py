"""2.0-SqNxt-44 (SqueezeNext, arXiv:1803.10615).

Caffe: 2.0-SqNxt-44 as shipped with DeepDetect.

    bash run_train.sh --configuration v_2_0_SqNxt_44

4,428,096 parameters. Reported by the paper: 69.59 top-1, 89.53 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=7,
        stages=(
            Stage(filters=64, units=12, stride=1),
            Stage(filters=128, units=12, stride=2),
            Stage(filters=256, units=16, stride=2),
            Stage(filters=512, units=2, stride=2),
        ),
        groups=1,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
