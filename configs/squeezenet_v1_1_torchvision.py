"""SqueezeNet 1.1 as torchvision has it (torchvision.models.squeezenet1_1).

    python predict.py photo.jpg --model_dir squeezenet_v1_1_torchvision

The network of squeezenet_v1_1 shown RGB, less ImageNet's mean by its deviation, at 224 pixels.
1,235,496 parameters. Reported by torchvision: 58.18 top-1, 80.62 top-5. Also the layout of
pytorchcv's squeezenet_v1_1. Not yet trained by us: the recipe is Caffe's.
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
        bypass="none",
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
