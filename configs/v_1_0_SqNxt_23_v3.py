"""1.0-SqNxt-23v3 (SqueezeNext, arXiv:1803.10615).

No official file: v5's wiring and stem, the paper's block counts.

    bash run_train.sh --configuration v_1_0_SqNxt_23_v3

747,840 parameters. Reported by the paper: 58.18 top-1, 81.96 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=5,
        stages=(
            Stage(filters=32, units=4, stride=1),
            Stage(filters=64, units=8, stride=2),
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
