r"""1.5-SqNxt-23v5 as pytorchcv has it (pytorchcv.models.squeezenext.sqnxt23v5_w3d2).

    python -m squeezenext.weights import --format pytorchcv --input FILE.pth \
        --configuration sqnxt23v5_w3d2 --model_dir DIR

Not the official layout: 224 pixels, a padded stem, stem and head as wide as the rest, biases, and
1x3 before 3x1 in every unit. The bottlenecks read the unit's input, which Caffe's v5 does not.
1,953,616 parameters. Reported by its author (imgclsmob, PyTorch): 66.19 top-1, 86.99 top-5.
Not yet trained by us: the recipe is Caffe's.
"""

from squeezenext.config import Config
from squeezenext.config.images import TORCHVISION
from squeezenext.config.network import SqueezeNext, Stage

CONFIG = Config(
    model=SqueezeNext(
        stem_filters=96,
        stem_kernel=7,
        stages=(
            Stage(filters=48, units=2, stride=1),
            Stage(filters=96, units=4, stride=2),
            Stage(filters=192, units=14, stride=2),
            Stage(filters=384, units=1, stride=2),
        ),
        groups=1,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=192,
        classes=1000,
        stem_padding=1,
        pair_order="1x3_first",
        biases=True,
    ),
    images=TORCHVISION,
)
