"""A small SqueezeNext for a first run: scikit-learn's handwritten digits in about a minute.

    bash run_train.sh

1.0-SqNxt-23's stem, units and head, with fewer units, on images of 64 x 64. Not published.
"""

from squeezenext.config import Config
from squeezenext.config.images import Images, RandomCrop
from squeezenext.config.network import SqueezeNext, Stage
from squeezenext.config.training import Training

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=32,
        stem_kernel=5,
        stages=(
            Stage(filters=32, units=1, stride=1),
            Stage(filters=64, units=2, stride=2),
            Stage(filters=128, units=2, stride=2),
        ),
        groups=1,
        bottleneck_input="shortcut",
        relu_before_add=True,
        head_filters=128,
        classes=10,
    ),
    images=Images(
        size=64,
        resize=72,
        channels="RGB",
        mean=(128.0, 128.0, 128.0),
        std=(64.0, 64.0, 64.0),
        augmentation=(RandomCrop(),),
    ),
    training=Training(
        epochs=12.0,
        batch_size=32,
        learning_rate=1.6,
        warmup_epochs=0.5,
        # An epoch has 45 steps; an average over the usual 1000 would lag behind the weights.
        batch_norm_momentum=0.9,
    ),
)
