"""A network and a data set small enough to train in seconds, by the ordinary path."""

import dataclasses
import hashlib
import io
import json
import os
import socket
from pathlib import Path

import numpy as np
from PIL import Image

from squeezenext.config import Config
from squeezenext.config.images import HorizontalFlip, Images, RandomCrop
from squeezenext.config.network import Fire, SqueezeNet, SqueezeNext, Stage
from squeezenext.config.training import Training
from squeezenext.records import dataset
from squeezenext.records import example as records_example
from squeezenext.records.reader import Reader
from squeezenext.sqz.kernels import Shared
from tests import records

CLASSES = 3
IMAGES = Images(
    size=32,
    resize=32,
    channels="RGB",
    mean=(128.0, 128.0, 128.0),
    std=(64.0, 64.0, 64.0),
)
AUGMENTED = dataclasses.replace(IMAGES, resize=40, augmentation=(RandomCrop(), HorizontalFlip()))
TRAINING = Training(
    epochs=2.0,
    batch_size=8,
    learning_rate=6.0,
    warmup_epochs=0.5,
    batch_norm_momentum=0.9,
    synchronized_batch_norm=True,
)
SQUEEZENEXT = Config(
    model=SqueezeNext(
        stem_filters=8,
        stem_kernel=3,
        stages=(Stage(filters=8, units=1, stride=2),),
        groups=2,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=16,
        classes=CLASSES,
    ),
    images=IMAGES,
    training=TRAINING,
)
SQUEEZENET = Config(
    model=SqueezeNet(
        stem_filters=8,
        stem_kernel=3,
        fires=(Fire(4, 8, 8), Fire(4, 8, 8)),
        pool_after=(2,),
        bypass="simple",
        head_padding=0,
        activation="relu",
        initializer="caffe_xavier",
        dropout=0.5,
        classes=CLASSES,
    ),
    images=AUGMENTED,
    training=dataclasses.replace(TRAINING, learning_rate=1.0, ema=0.9),
)


def jpeg(number: int, label: int, side: int = 48, kind: str = "JPEG") -> bytes:
    """A noisy square whose colour tells the class; `kind`: another format, by Pillow's name."""
    noise = np.random.default_rng(number).integers(0, 60, (side, side, 3))
    noise[..., label - 1] += 120
    file = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(file, kind, quality=90)
    return file.getvalue()


def shard(path: Path, examples: int, first: int = 0) -> Path:
    """Writes `examples` records of classes 1, 2, 3, 1, ... in the TF-slim schema."""
    with open(path, "wb") as file:
        for number in range(first, first + examples):
            label = number % CLASSES + 1
            example = records_example.ImageExample(
                jpeg(number, label), 48, 48, label, f"n{label}", f"class {label}", f"{number}.jpg"
            )
            features = records.example_features(example)
            file.write(records.frame(records.encode_example(features)))
    return path


def data_set(folder: Path, split: str, payloads: list[bytes]) -> Path:
    """Writes a data set of the tiny classes that has one split alone, with its manifest."""
    folder.mkdir(exist_ok=True)
    shard = folder / f"{split}-00000-of-00001"
    shard.write_bytes(b"".join(map(records.frame, payloads)))
    content = shard.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    rows = [{"file": shard.name, "bytes": len(content), "sha256": sha256}]
    document = {
        "format_version": dataset.FORMAT_VERSION,
        "classes": [
            {"label": n, "synset": f"n{n}", "text": f"n{n}"} for n in range(1, CLASSES + 1)
        ],
        "splits": {
            split: {
                "examples": len(payloads),
                "shards": [row | {"examples": len(payloads)} for row in rows],
            }
        },
        "rgb_mean": None,
        "repairs": [],
        "rejected": [],
    }
    (folder / dataset.MANIFEST).write_text(json.dumps(document))
    return folder


def payload(number: int, label: int, leave_out: str = "") -> bytes:
    """Returns one record, without the feature `leave_out`."""
    example = records_example.ImageExample(
        jpeg(number, 1), 48, 48, label, f"n{label}", f"n{label}", f"{number}.jpg"
    )
    features = dict(records.example_features(example))
    features.pop(leave_out, None)
    return records.encode_example(features)


def reader(folder: Path, examples: int = 40) -> Reader:
    """A reader of one shard in `folder`, written if absent."""
    path = folder / "train-00000-of-00001"
    if not path.exists():
        shard(path, examples)
    return Reader(dataset.split_from_pattern("train", str(path)))


def environment(**more: str) -> dict[str, str]:
    """What a process of its own needs to find this repository."""
    root = str(Path(__file__).parent.parent)
    return os.environ | {"PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"} | more


def tf_configs(workers: int) -> list[str]:
    """TF_CONFIG of a chief and the others, on free ports of this machine."""
    sockets = [socket.socket() for _ in range(workers)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{held.getsockname()[1]}" for held in sockets]
    for held in sockets:
        held.close()
    cluster = {"chief": addresses[:1], "worker": addresses[1:]}
    tasks = [("chief", 0), *(("worker", index) for index in range(workers - 1))]
    return [
        json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
        for kind, index in tasks
    ]


def model_directory(folder: Path, config: Config):
    """Makes a model directory of a network with random weights and returns the network."""
    import keras

    from squeezenext import labels
    from squeezenext.model import checkpoint
    from squeezenext.network import keras_model
    from squeezenext.train import exchange

    keras.utils.set_random_seed(1)  # else a test of probabilities fails now and then
    classes = [labels.Label(f"n{i}", f"class {i}") for i in range(1, config.model.classes + 1)]
    exchange.create(folder, config, classes)
    model = keras_model.build_model(config)
    for variable in model.trainable_variables:  # random offsets and scales, too
        if len(variable.shape) == 1:
            noise = np.random.default_rng(1).normal(1.0, 0.3, variable.shape)
            variable.assign(noise.astype(np.float32))
    state = {name: value.numpy() for name, value in keras_model.model_variables(model).items()}
    checkpoint.save(folder / "checkpoints", 0, state, {"imported": {}})
    exchange.write_litert(folder, model)
    return model


def shared(kernel, values):
    """A kernel whose weights are rounded to evenly spaced values; zeros stay zeros."""
    grid = np.linspace(kernel.min(), kernel.max(), values)
    nearest = grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, kernel)]
    return Shared.of(np.where(kernel != 0, nearest, 0).astype(np.float32))
