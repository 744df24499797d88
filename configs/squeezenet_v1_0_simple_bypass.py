"""SqueezeNet 1.0 with simple bypass (Caffe: songhan/SqueezeNet-Residual).

    bash run_train.sh --configuration squeezenet_v1_0_simple_bypass

Adds around fire3, 5, 7 and 9. 1,248,424 parameters. Reported by its README: 60.38 top-1,
82.50 top-5. Not yet trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.network import Fire, SqueezeNet
from squeezenext.config.training import IMAGENET_TRAIN, Training

CONFIG = Config(
    model=SqueezeNet(
        stem_filters=96,
        stem_kernel=7,
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
        pool_after=(4, 8),
        bypass="simple",
        head_padding=1,
        activation="relu",
        initializer="caffe_xavier",
        dropout=0.5,
        classes=1000,
    ),
    training=Training(
        epochs=170_000 * 512 / IMAGENET_TRAIN,  # solver.prototxt: max_iter x batch x iter_size
        batch_size=512,
        learning_rate=0.08,  # base_lr 0.04 at 512 images
        power=1.0,
        warmup_epochs=0.0,
        weight_decay=2e-4,
    ),
)
