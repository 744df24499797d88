"""1.5-SqNxt-34 (SqueezeNext, arXiv:1803.10615).

No official file: block counts inferred from 23 and 44.

    bash run_train.sh --configuration v_1_5_SqNxt_34

2,156,408 parameters. Reported by the paper: 66.00 top-1, 87.40 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=7,
        stages=(
            Stage(filters=48, units=9, stride=1),
            Stage(filters=96, units=9, stride=2),
            Stage(filters=192, units=12, stride=2),
            Stage(filters=384, units=2, stride=2),
        ),
        groups=1,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
