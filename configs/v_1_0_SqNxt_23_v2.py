"""1.0-SqNxt-23v2 (SqueezeNext, arXiv:1803.10615).

No official file: v5's wiring and stem, the paper's block counts.

    bash run_train.sh --configuration v_1_0_SqNxt_23_v2

733,664 parameters. Reported by the paper: 58.55 top-1, 82.09 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=5,
        stages=(
            Stage(filters=32, units=6, stride=1),
            Stage(filters=64, units=6, stride=2),
            Stage(filters=128, units=8, stride=2),
            Stage(filters=256, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="shortcut",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
