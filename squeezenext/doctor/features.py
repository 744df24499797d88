"""Features of photographs, what their pixels say, and which of them are alike.

One pass of a published network computes the features. A photograph is decoded once, a large JPEG
at a part of its size. A file keeps them, so that a second call reads new photographs alone.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from squeezenext import files, progress
from squeezenext.convert import shards
from squeezenext.convert.listing import Fault, Listing
from squeezenext.errors import InputError
from squeezenext.images import decoding, geometry
from squeezenext.images.jpeg import ImageError
from squeezenext.predict.predictor import Predictor, map_in_threads, one_large_at_a_time

# What the pixels say. `brightness` is the mean of the network's crop in grey values 0..255, and
# `sharpness` the variance of its Laplacian (Pech-Pacheco et al. 2000), which is small where edges
# are blurred. The others are about the whole photograph: its sides in pixels, and the mean RGB of
# all of it and of its border, 0..255.
PIXELS = np.dtype(
    [
        ("width", "<i4"),
        ("height", "<i4"),
        ("brightness", "<f4"),
        ("sharpness", "<f4"),
        ("colour", "<f4", 3),
        ("border", "<f4", 3),
        ("sha256", "S64"),  # SHA-256 of the file, hexadecimal
    ]
)
_SMALL = 16  # side of the picture whose outermost pixels are the border
# Cosine of the square roots of two photographs' features. Of 150 clothing photographs, 100 % of the
# copies were above it that were cut by 5 %, re-encoded at quality 50, halved or made a fifth darker
# or brighter; 95 % of those cut by 10 % in the middle, 84 % in a corner. Of the 3,068 photographs
# themselves 39 have such a neighbour, half of them the same thing photographed twice.
ALIKE = 0.95
_NEIGHBOURS = 10
_Row = tuple[np.ndarray, np.ndarray]  # values [channels] and `PIXELS` of one photograph


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of the photographs that can be read.

    Attributes:
      rows: [n] int64, the index of each photograph in the listing.
      values: [n, channels] float32, the classifier's input averaged over all positions, >= 0.
      pixels: [n] of `PIXELS`.
      faults: the photographs that cannot be read.
    """

    rows: np.ndarray
    values: np.ndarray
    pixels: np.ndarray
    faults: tuple[Fault, ...]


def extract(
    listing: Listing,
    configuration: str | Path = "squeezenet_v1_1",
    *,
    kept: Path | None = None,
    show_progress: bool = True,
) -> Features:
    """Returns the features of the photographs of a listing.

    Args:
      listing: the photographs.
      configuration: the network: a published model's name or a model directory.
      kept: a file of features, such as checkup/features.npz, which is read if it is there, and
        written anew. A photograph is known again by its name, size and time of change.
      show_progress: show the progress on standard error.

    Raises:
      InputError: there is no such network, or a file became shorter while it was read.
    """
    predictor = Predictor(configuration, inside=True)
    keys = _keys(listing, predictor)
    known = _read(kept) if kept else {}
    missing = [number for number, key in enumerate(keys) if key not in known]
    faults = []
    sizes = listing.table["size"]
    with progress.throughput(
        "Features", len(missing), int(sizes[missing].sum()), show_progress
    ) as advance:
        computed = map_in_threads(_pass(listing, predictor), missing)
        for number, row in zip(missing, computed, strict=True):
            advance(1, int(sizes[number]))
            if isinstance(row, Fault):
                faults.append(row)
            else:
                known[keys[number]] = row
    present = [number for number, key in enumerate(keys) if key in known]
    rows = [known[keys[number]] for number in present]
    values = np.array([row[0] for row in rows], np.float32)
    pixels = np.array([row[1] for row in rows], PIXELS)
    if kept and missing and present:
        _write(kept, [keys[number] for number in present], values, pixels)
    return Features(np.array(present, np.int64), values, pixels, tuple(faults))


def _keys(listing: Listing, predictor: Predictor) -> list[str]:
    """Returns a key of each photograph and the network, which its answer to noise stands for."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    network = hashlib.blake2b(np.asarray(predictor.view(noise).features).tobytes()).digest()
    times = [path.stat().st_mtime_ns for path in listing.files]
    rows = zip(listing.names, listing.table["size"], listing.table["file"], strict=True)
    return [
        hashlib.blake2b(f"{name} {size} {times[file]}".encode(), key=network, digest_size=16)
        .hexdigest()
        for name, size, file in rows
    ]  # fmt: skip


def _pass(listing: Listing, predictor: Predictor) -> Callable[[int], _Row | Fault]:
    """Returns the function that computes a photograph's row, or says why it cannot be read."""
    enough = 2 * predictor.config.images.size

    def row(number: int) -> _Row | Fault:
        try:
            data = shards.image_bytes(listing, number)
            opened = decoding.open_image(data, (enough, enough), upright=True)
            with one_large_at_a_time(opened.image):
                image = decoding.decode(opened)
        except ImageError as error:
            return Fault(listing.names[number], str(error))
        values = np.asarray(predictor.view(image).features)
        crop = geometry.centre_pixels(image, predictor.config.images)
        sides = opened.size[:: -1 if opened.orientation in decoding.SIDEWAYS else 1]
        shown = (*sides, *_grey(crop), *_colours(image), hashlib.sha256(data).hexdigest())
        return values, np.array(shown, PIXELS)

    return row


def _grey(crop: np.ndarray) -> tuple[float, float]:
    """Returns brightness and sharpness of [height, width, 3] uint8."""
    grey = crop.mean(-1, np.float32)
    laplacian = (
        grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    )
    return float(grey.mean()), float(laplacian.var())


def _colours(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean RGB of an image, and the mean RGB of its border."""
    small = np.asarray(image.resize((_SMALL, _SMALL), Image.Resampling.BOX), np.float32)
    edge = np.ones((_SMALL, _SMALL), bool)
    edge[1:-1, 1:-1] = False
    return small.mean((0, 1)), small[edge].mean(0)


def _read(path: Path) -> dict[str, _Row]:
    """Returns the rows of a file of features by their keys, none if it is absent or damaged.

    Raises:
      InputError: it is another program's.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
            keys, values, pixels = held["keys"], held["values"], held["pixels"]
    except KeyError as error:
        raise InputError(
            f"{path} is another program's; move it away, or choose another place."
        ) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}
    if pixels.dtype != PIXELS or not len(keys) == len(values) == len(pixels):
        return {}
    return dict(zip(keys.tolist(), zip(values, pixels, strict=True), strict=True))


def _write(path: Path, keys: list[str], values: np.ndarray, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(path, lambda file: np.savez(file, keys=keys, values=values, pixels=pixels))


def neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each photograph's nearest ones, itself among them, and how similar they are.

    Args:
      values: [n, channels] float32 features, at least 0.

    Returns:
      Indices, [n, k] int64, and cosines of the square roots, [n, k] float32.
    """
    from usearch.index import Index

    roots = np.sqrt(values)
    roots /= np.linalg.norm(roots, axis=1, keepdims=True).clip(1e-9)
    index = Index(ndim=roots.shape[1], metric="cos", dtype="f16")
    index.add(np.arange(len(roots)), roots, threads=1)  # several would make another graph each time
    k = min(_NEIGHBOURS, len(roots))
    keys = index.search(roots, k, threads=1).keys.astype(np.int64).reshape(len(roots), k)
    similar = [np.einsum("nc,nc->n", roots, roots[column]) for column in keys.T]
    return keys, np.stack(similar, 1)


def grouped(keys: np.ndarray, similar: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Returns the group of each photograph, int64 [n]: copies, near duplicates and bursts.

    Args:
      keys: [n, k], from `neighbours`.
      similar: [n, k], from `neighbours`.
      digests: [n] of the files' contents.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(keys)
    alike, place = np.nonzero(similar > ALIKE)
    _, first, same = np.unique(digests, return_index=True, return_inverse=True)
    sources = np.concatenate([alike, np.arange(count)])
    targets = np.concatenate([keys[alike, place], first[same]])
    graph = coo_array((np.ones(len(sources), bool), (sources, targets)), (count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)
