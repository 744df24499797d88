r"""1.0-SqNxt-23 as pytorchcv has it (pytorchcv.models.squeezenext.sqnxt23_w1).

    python -m squeezenext.weights import --format pytorchcv --input FILE.pth \
        --configuration sqnxt23_w1 --model_dir DIR

Not the official layout: 224 pixels, a padded stem, stem and head as wide as the rest, biases, and
1x3 before 3x1 in every unit.
724,056 parameters. Reported by its author (imgclsmob, PyTorch): 57.49 top-1, 80.94 top-5.
Not yet trained by us: the recipe is Caffe's.
"""

from squeezenext.config import Config
from squeezenext.config.images import TORCHVISION
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
        relu_before_add=True,
        head_filters=128,
        classes=1000,
        stem_padding=1,
        pair_order="1x3_first",
        biases=True,
    ),
    images=TORCHVISION,
)
