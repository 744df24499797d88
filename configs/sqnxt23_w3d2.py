r"""1.5-SqNxt-23 as pytorchcv has it (pytorchcv.models.squeezenext.sqnxt23_w3d2).

    python -m squeezenext.weights import --format pytorchcv --input FILE.pth \
        --configuration sqnxt23_w3d2 --model_dir DIR

Not the official layout: 224 pixels, a padded stem, stem and head as wide as the rest, biases, and
1x3 before 3x1 in every unit.
1,511,824 parameters. Reported by its author (imgclsmob, PyTorch): 65.11 top-1, 86.50 top-5.
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
            Stage(filters=48, units=6, stride=1),
            Stage(filters=96, units=6, stride=2),
            Stage(filters=192, units=8, stride=2),
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
