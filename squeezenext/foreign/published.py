"""The published weights that have a name here: where they are, and how to read them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class File:
    """A file on the internet that is always the same."""

    url: str
    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights on the internet, and how to read them."""

    configuration: str
    format: str
    files: tuple[File, ...]
    licence: str


_GITHUB = "https://raw.githubusercontent.com"
_NIHUI = f"{_GITHUB}/nihui/ncnn-assets/master/models"
_ZCHRISSIRHCZ = (
    f"{_GITHUB}/zchrissirhcz/squeezenet-ncnn-pnnx-opencv-cpp/"
    "fc56736098dd40b834912d7409d4ab4931b30802"
)
PUBLISHED = {
    "squeezenet_v1_0": Published(
        "squeezenet_v1_0",
        "deep_compression",
        (
            File(
                f"{_GITHUB}/songhan/SqueezeNet-Deep-Compression/master/compressed_SqueezeNet.net",
                "e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
                675_763,
            ),
        ),
        "BSD (songhan/SqueezeNet-Deep-Compression)",
    ),
    "squeezenet_v1_1": Published(
        "squeezenet_v1_1",
        "ncnn",
        (
            File(
                f"{_NIHUI}/squeezenet_v1.1.param",
                "6a38784ab51f056e5ecdf208120f8a9174b74831255e66b74c4dd6bf755a4324",
                7_145,
            ),
            File(
                f"{_NIHUI}/squeezenet_v1.1.bin",
                "928c82c485a16064df88794d83c333025055e60c08f73217222244ab0ed2dbc6",
                2_478_984,
            ),
        ),
        "BSD (forresti/SqueezeNet, converted in nihui/ncnn-assets)",
    ),
    "squeezenet_v1_1_torchvision": Published(
        "squeezenet_v1_1_torchvision",
        "ncnn",
        (
            File(
                f"{_ZCHRISSIRHCZ}/squeezenet_v1.1.ncnn.param",
                "7dfb3045edf49f199ccc03dfc262956c6b9f38089b14d32a273aa8463c49c46b",
                4_629,
            ),
            File(
                f"{_ZCHRISSIRHCZ}/squeezenet_v1.1.ncnn.bin",
                "3de9f2f9dbbbc4468fe452d9033300633b60748073a9509a7ea882caec57e544",
                2_478_984,
            ),
        ),
        "BSD (pytorch/vision, converted in zchrissirhcz/squeezenet-ncnn-pnnx-opencv-cpp)",
    ),
}
