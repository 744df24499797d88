"""SqueezeNet 1.1 with ELU on Caltech256: the PyTorch predecessor's recipe, its faults mended.

    bash run_train.sh --configuration squeezenet_v1_1_caltech256

Adam under a cyclic cosine: down for 5 epochs, up for 5. The predecessor rotated always by -15
degrees, distorted the aspect, applied log-softmax twice and reported 46.60 % validation top-1.
Its batch size and pixel scale are not recorded: 64 and 0..1 are ours. 853,824 parameters. Not yet
trained by us.
"""

from squeezenext.config import Config
from squeezenext.config.images import HorizontalFlip, Images, RandomCrop, ShiftScaleRotate
from squeezenext.config.network import Fire, SqueezeNet
from squeezenext.config.training import Training

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
        activation="elu",
        initializer="glorot_normal",
        dropout=0.5,
        classes=256,
    ),
    images=Images(
        size=224,
        resize_mode="short_side",
        channels="RGB",
        mean=(123.675, 116.28, 103.53),
        std=(255.0, 255.0, 255.0),
        augmentation=(
            RandomCrop(),
            ShiftScaleRotate(shift=0.0625, scale=0.1, rotate_degrees=15.0),
            HorizontalFlip(),
        ),
    ),
    training=Training(
        epochs=90.0,
        batch_size=64,
        optimizer="adam",
        learning_rate=1e-3,
        rate_scaling="sqrt",
        reference_batch=64,
        schedule="cyclic_cosine",
        cycle_epochs=5.0,
        final_learning_rate=1e-5,
        late_final_learning_rate=1e-6,
        late_epoch=70.0,
        warmup_epochs=0.0,
        weight_decay=1e-4,
    ),
)
