"""The network of the files in this folder: a SqueezeNext of 16 pixels, three digits."""

from squeezenext.config import Config, RandomCrop
from squeezenext.config.images import Images
from squeezenext.config.network import SqueezeNext, Stage
from squeezenext.config.training import Training

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=8,
        stem_kernel=3,
        stages=(
            Stage(filters=8, units=1, stride=1),
            Stage(filters=16, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="shortcut",
        relu_before_add=True,
        head_filters=16,
        classes=3,
    ),
    images=Images(
        size=32,
        resize=36,
        channels="RGB",
        mean=(128.0, 128.0, 128.0),
        std=(64.0, 64.0, 64.0),
        augmentation=(RandomCrop(),),
    ),
    training=Training(
        epochs=16.0,
        batch_size=8,
        learning_rate=6.0,
        warmup_epochs=0.5,
        batch_norm_momentum=0.9,
    ),
)
