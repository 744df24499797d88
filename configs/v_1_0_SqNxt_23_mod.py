"""1.0-SqNxt-23 without the ReLUs before the addition (SqueezeNext, arXiv:1803.10615).

`_mod` of the TensorFlow 1.8 predecessor (seperate_relus: 0).

    bash run_train.sh --configuration v_1_0_SqNxt_23_mod

717,280 parameters. Reported by the predecessor: 55 top-1, 79 top-5 at batch 256.
Not yet trained by us.
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
        groups=1,
        bottleneck_input="unit",
        relu_before_add=False,
        head_filters=128,
        classes=1000,
    ),
)
