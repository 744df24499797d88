"""2.0-SqNxt-23v5 (SqueezeNext, arXiv:1803.10615).

Caffe: 2.0-SqNxt-23v5/train_val.prototxt.

    bash run_train.sh --configuration v_2_0_SqNxt_23_v5

3,222,912 parameters. Reported by the paper: 67.44 top-1, 88.20 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=64,
        stem_kernel=5,
        stages=(
            Stage(filters=64, units=2, stride=1),
            Stage(filters=128, units=4, stride=2),
            Stage(filters=256, units=14, stride=2),
            Stage(filters=512, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="shortcut",
        relu_before_add=True,
        head_filters=128,
        classes=1000,
    ),
)
