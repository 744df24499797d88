r"""SqueezeNet 1.1 with simple bypass as pytorchcv has it (squeezeresnet_v1_1).

    python -m squeezenext.weights import --format pytorchcv --input FILE.pth \
        --configuration squeezeresnet_v1_1 --model_dir DIR

Shown RGB, less ImageNet's mean by its deviation, at 224 pixels; the classifier is not padded.

1,235,496 parameters. Reported by its author (imgclsmob, PyTorch): 59.91 top-1, 81.79 top-5.
Not yet trained by us: the recipe is Caffe's.
"""

from squeezenext.config import Config
from squeezenext.config.images import TORCHVISION
from squeezenext.config.network import Fire, SqueezeNet
from squeezenext.config.training import IMAGENET_TRAIN, Training

CONFIG = Config(
    model=SqueezeNet(
        stem_filters=64,
        stem_kernel=3,
        fires=(
            Fire(16, 64, 64),
            Fire(16, 64, 64),
            Fire(32, 128, 128),
            Fire(32, 128, 128),
            Fire(48, 192, 192),
            Fire(48, 192, 192),
            Fire(64, 256, 256),
            Fire(64, 256, 256),
        ),
        pool_after=(3, 5),
        bypass="simple",
        head_padding=0,
        activation="relu",
        initializer="caffe_xavier",
        dropout=0.5,
        classes=1000,
    ),
    images=TORCHVISION,
    training=Training(
        epochs=170_000 * 512 / IMAGENET_TRAIN,
        batch_size=512,
        learning_rate=0.08,
        power=1.0,
        warmup_epochs=0.0,
        weight_decay=2e-4,
    ),
)
