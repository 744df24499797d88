"""1.5-SqNxt-23 (SqueezeNext, arXiv:1803.10615).

No official file: 1.0-SqNxt-23 with wider stages.

    bash run_train.sh --configuration v_1_5_SqNxt_23

1,406,384 parameters. Reported by the paper: 63.52 top-1, 85.66 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=7,
        stages=(
            Stage(filters=48, units=6, stride=1),
            Stage(filters=96, units=6, stride=2),
            Stage(filters=192, units=8, stride=2),
            Stage(filters=384, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
