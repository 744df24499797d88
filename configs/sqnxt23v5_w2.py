r"""2.0-SqNxt-23v5 as pytorchcv has it (pytorchcv.models.squeezenext.sqnxt23v5_w2).

    python -m squeezenext.weights import --format pytorchcv --input FILE.pth \
        --configuration sqnxt23v5_w2 --model_dir DIR

Not the official layout: 224 pixels, a padded stem, stem and head as wide as the rest, biases, and
1x3 before 3x1 in every unit. The bottlenecks read the unit's input, which Caffe's v5 does not.
3,366,344 parameters. Reported by its author (imgclsmob, PyTorch): 70.37 top-1, 89.34 top-5.
Not yet trained by us: the recipe is Caffe's.
"""

from squeezenext.config import Config
from squeezenext.config.images import TORCHVISION
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=128,
        stem_kernel=7,
        stages=(
            Stage(filters=64, units=2, stride=1),
            Stage(filters=128, units=4, stride=2),
            Stage(filters=256, units=14, stride=2),
            Stage(filters=512, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=256,
        classes=1000,
        stem_padding=1,
        pair_order="1x3_first",
        biases=True,
    ),
    images=TORCHVISION,
)
