"""2.0-SqNxt-23v4 (SqueezeNext, arXiv:1803.10615).

No official file: v5's wiring and stem, the paper's block counts.

    bash run_train.sh --configuration v_2_0_SqNxt_23_v4

2,555,136 parameters. Reported by the paper: 66.95 top-1, 87.89 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=5,
        stages=(
            Stage(filters=64, units=2, stride=1),
            Stage(filters=128, units=10, stride=2),
            Stage(filters=256, units=8, stride=2),
            Stage(filters=512, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="shortcut",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
