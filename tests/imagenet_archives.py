"""Makes images and archives in the official form of ILSVRC2012, for the tests."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CONVERT = Path(__file__).parents[1] / "squeezenext" / "convert"
SHARED = Path(__file__).parents[2] / "shared"


def picture(seed: int = 0, width: int = 24, height: int = 16) -> Image.Image:
    """Returns a smooth RGB picture; another one for another seed."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(seed: int = 0) -> bytes:
    return encoded(picture(seed), quality=95)


def class_folders(folder: Path, count: int, names: Sequence[str] = ("cat", "dog")) -> Path:
    """Makes a folder a class in `folder`, of `count` photographs each; returns `folder`."""
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            (folder / name / f"{n}.jpg").write_bytes(jpeg(100 * place + n))
    return folder


def tar_bytes(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def validation_name(synset: str, rank: int = 0) -> str:
    """Returns the name of the official validation image number `rank` of a class."""
    truth = (CONVERT / "imagenet_2012_validation_synsets.txt").read_text().split()
    number = [place for place, other in enumerate(truth, 1) if other == synset][rank]
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def write_imagenet(
    directory: Path,
    train: Mapping[str, Mapping[str, bytes]],
    validation: Mapping[str, bytes],
    boxes: Mapping[str, bytes] | None = None,
) -> Path:
    """Writes the archives: train[synset][name], validation[name], boxes[member name]."""
    directory.mkdir(parents=True, exist_ok=True)
    inner = {f"{synset}.tar": tar_bytes(images) for synset, images in train.items()}
    (directory / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
    (directory / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(validation))
    if boxes is not None:
        path = directory / "ILSVRC2012_bbox_train_v2.tar.gz"
        path.write_bytes(tar_bytes(boxes, "w:gz"))
    return directory


def box_xml(name: str, *boxes: tuple, size: tuple = (100, 50)) -> bytes:
    """Returns an annotation; each box is xmin, ymin, xmax, ymax."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for x0, y0, x1, y1 in boxes
    )
    return (
        "<annotation><filename>%s</filename><size><width>{}</width><height>{}</height></size>"
        "{}</annotation>"
    ).format(*size, objects).encode()  # fmt: skip


def real_imagenet(directory: Path) -> Path:
    """Writes the 100 real images of ../shared as train and validation, with a box each."""
    with tarfile.open(SHARED / "data" / "imagenet-100.tar") as archive:
        images = {
            Path(member.name).name: archive.extractfile(member).read()
            for member in archive
            if member.isfile()
        }
    train = {name.split("_")[0]: {name: data} for name, data in images.items()}
    validation = {validation_name(name.split("_")[0]): data for name, data in images.items()}
    boxes = {
        f"{name.split('_')[0]}/{Path(name).stem}.xml": box_xml("x", (10, 5, 90, 45))
        for name in images
    }
    return write_imagenet(directory, train, validation, boxes)
