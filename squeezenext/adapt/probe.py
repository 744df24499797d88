"""The first answer: a linear classifier on the features of a network that stays as it is.

It takes seconds, and from few photographs it is hard to beat. Fine-tuning starts from it, so that
the first gradients of a random classifier do not harm the features (arXiv:2202.10054).
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from squeezenext import files, metrics
from squeezenext.adapt import plan as planning
from squeezenext.adapt.course import weighting
from squeezenext.cli import log
from squeezenext.config import Config, recipes
from squeezenext.doctor import suspects
from squeezenext.errors import InputError
from squeezenext.labels import Label
from squeezenext.litert import writer
from squeezenext.model import card, checkpoint, loading, published
from squeezenext.model import directory as model_directory
from squeezenext.network import graph
from squeezenext.predict.answers import View
from squeezenext.predict.predictor import Predictor, map_in_threads
from squeezenext.records import samples
from squeezenext.records.dataset import Dataset, Split
from squeezenext.records.reader import Reader

# Most photographs of a split whose features are computed: some 12 s on two cores.
MOST = 1000
# Strength of the L2 penalty, as scikit-learn's C. Top-1 of 713 held-out clothing photographs after
# 20 a class: C = 0.01 0.699, 0.03 0.711, 0.1 0.714, 0.3 0.711, 1 0.710.
C = 0.1
# What --configuration auto chooses among: one size and one speed, but weights and preprocessing of
# Caffe and of PyTorch. Ants and bees: 0.91 and 0.93 on the validation images; clothes, 20 a class:
# 0.73 and 0.63 on the test images.
AUTO, CANDIDATES = "auto", ("squeezenet_v1_1", "squeezenet_v1_1_torchvision")
# Strength of the adjustment for uneven classes. Balanced accuracy on the photographs that were not
# trained on, mean of ten draws, at 1, 1.25 and 1.5: 160 long sleeves and 16 of dresses and hats
# 0.867, 0.880, 0.884; 160 and 8 of each 0.790, 0.833, 0.845; 160 shirts and 16 each of shoes and
# shorts 0.921, 0.930, 0.933; five classes of 160 and 16 of each other 0.868, 0.870, 0.867.
ADJUSTMENT = 1.25
LEAST_SHARE = 0.2  # a channel is divided by this share of the channels' mean deviation at least


@dataclasses.dataclass(frozen=True)
class Examples:
    """Features and classes of photographs.

    Attributes:
      values: [n, channels] float32, the classifier's input averaged over all positions.
      labels: [n] int64, the classes, counted from 0.
    """

    values: np.ndarray
    labels: np.ndarray


def make(folder: Path, configuration: str, found: Dataset) -> float | None:
    """Makes a model directory whose classifier is fitted to the features of a network.

    Args:
      folder: the model directory to make; one that is there is complete, and stays if it is of
        that network.
      configuration: the published model or the model directory with the network.
      found: the records with the photographs.

    Returns:
      Top-1 of validation photographs, at most `MOST`; None if the directory was there already.

    Raises:
      InputError: the folder holds other files, or the training photographs are of one class.
    """
    made_of = card.imported(folder).get("model")
    if made_of == Path(configuration).name:
        return None
    if made_of is None and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} holds other files; move them, or give another --model_dir.")
    source, config = published.resolve(configuration), _config(configuration, found)
    arrays, classes = loading.variables(source), config.model.classes
    draft = _blank(folder, config, arrays, found)
    train = gather(draft, found.splits["train"], MOST)
    if len(known := np.unique(train.labels)) < 2:
        only = (found.classes or ())[known[0]].text
        raise InputError(
            f"Of the training photographs only those of {only} can be read; a classifier needs two "
            "classes: see the rejected files above."
        )
    adjusted = weighting(found.splits["train"], classes) == "adjusted"
    biased = graph.of(config).weighted[-1].bias
    kernel, bias = fit_classifier(train, classes, biased=biased, adjusted=adjusted)
    shutil.rmtree(draft)
    origin = {"imported": card.imported(source) | {"model": Path(configuration).name}}
    write(draft, config, found.classes or (), _with_head(arrays, config, kernel, bias), origin)
    top1 = scores(draft, found.splits["validation"], MOST)["top1"]
    shutil.rmtree(folder, ignore_errors=True)  # it was made of another network
    os.replace(draft, folder)
    return top1


def choose(folder: Path, networks: Sequence[str], found: Dataset) -> str:
    """Returns the network whose features tell the classes of the training photographs apart best.

    Args:
      folder: the directory of the first answer; one that is there was made of the choice.
      networks: published models or model directories.
      found: the records with the photographs.
    """
    known = [name for name in networks if card.imported(folder).get("model") == Path(name).name]
    if known or len(networks) == 1:
        return (known or networks)[0]
    right = {}
    for name in networks:
        arrays = loading.variables(published.resolve(name))
        draft = _blank(folder, _config(name, found), arrays, found)
        train = gather(draft, found.splits["train"], MOST)
        alone, classes = np.arange(len(train.labels)), len(found.classes or ())
        answers = suspects.out_of_fold(train.values, train.labels, alone, classes).argmax(1)
        right[name] = float((answers == train.labels).mean())
        shutil.rmtree(draft)
    log(f"Cross-validated top-1 of {', '.join(f'{name} {x:.3f}' for name, x in right.items())}.")
    return max(networks, key=lambda name: right[name])


def _blank(folder: Path, config: Config, arrays: dict[str, np.ndarray], found: Dataset) -> Path:
    """Makes a model directory beside `folder` whose classifier is all 0, for its features."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)  # an interrupted start left it
    network = graph.of(config)
    kernel = np.zeros(network.kernel_shape(network.weighted[-1].name), np.float32)
    blank = _with_head(arrays, config, kernel, np.zeros(config.model.classes, np.float32))
    write(draft, config, found.classes or (), blank, {})
    return draft


def _config(configuration: str, found: Dataset) -> Config:
    """Returns the configuration of fine-tuning at the network's own image size."""
    config = recipes.apply("fine_tune", planning.base(configuration))
    images = dataclasses.replace(config.images, progressive=())
    if found.upright:
        images = dataclasses.replace(images, orientation="exif")
    model = dataclasses.replace(config.model, classes=len(found.classes or ()))
    return dataclasses.replace(config, model=model, images=images)


def gather(model: Path, split: Split, most: int) -> Examples:
    """Returns the features of up to `most` photographs of a split."""
    predictor = Predictor(model, inside=True)
    padding = getattr(predictor.config.model, "head_padding", 0)

    def features(view: View) -> np.ndarray:
        inside = 1 - 2 * padding / len(view.class_map(0))  # a logit is a mean over the padding, too
        return np.asarray(view.features) * np.float32(inside**2)

    return Examples(*viewed(predictor, split, most, features))


def viewed(
    predictor: Predictor,
    split: Split,
    most: int,
    take: Callable[[View], np.ndarray],
    classes: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `take` of the views of up to `most` images, spread evenly over a split, and labels.

    The results are in one array, [images, ...]; the labels are counted from 0, [images] int64, and
    there are `classes` of them, 0: as many as the predictor's.
    """
    reader, classes = Reader(split), classes or len(predictor.labels)

    def one(number: int) -> tuple[np.ndarray, int]:
        image, label = samples.read_examples(reader, number, classes)
        return take(predictor.view(image)), label

    numbers = np.linspace(0, split.examples - 1, min(most, split.examples)).round().astype(int)
    rows = list(map_in_threads(one, numbers.tolist()))
    return np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])


def fit_classifier(
    train: Examples, classes: int, *, biased: bool = True, adjusted: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Fits multinomial logistic regression to standardised features.

    Args:
      train: features and classes.
      classes: number of classes.
      biased: False for a classifier without biases, whose features are scaled alone.
      adjusted: take `ADJUSTMENT` times the log frequencies of the classes out of the biases
        (arXiv:2007.07314).

    Returns:
      The classifier of features as they are: kernel [channels, classes] and bias [classes],
      float32. With biases no logit of a training photograph is below 0, where a ReLU behind the
      classifier, as SqueezeNet's, would cut it off, and a class without photographs has 0.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean, deviation = train.values.mean(0) * biased, train.values.std(0)
    # A channel that hardly varies would get weights so large that int8 has no room for the others.
    scale = np.maximum(deviation, LEAST_SHARE * deviation.mean() or 1.0)
    fitted = LogisticRegression(C=C, max_iter=500, fit_intercept=biased)
    with threadpool_limits(1):  # see suspects.out_of_fold
        fitted.fit((train.values - mean) / scale, train.labels)
    rows, offsets = fitted.coef_ / scale, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps the second class's alone
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    offsets = offsets - rows @ mean
    if adjusted:
        shares = np.bincount(train.labels)[fitted.classes_] / len(train.labels)
        offsets -= ADJUSTMENT * np.log(shares)
    lowest = min(0.0, (train.values @ rows.T + offsets).min())
    kernel, bias = np.zeros((rows.shape[1], classes), np.float32), np.zeros(classes, np.float32)
    kernel[:, fitted.classes_], bias[fitted.classes_] = rows.T, offsets - lowest
    return kernel, bias * np.float32(biased)


def scores(model: Path, split: Split, most: int, *, balanced: bool = False) -> dict[str, float]:
    """Returns top1, top5 and loss of up to `most` images, and the loss at the best temperature.

    The latter, `fitted_loss`, is the mean over the images, or if `balanced` over the classes.
    """
    predictor = Predictor(model)
    logits, labels = viewed(predictor, split, most, lambda view: view.logits)
    better = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    temperature = np.float32(metrics.fit_temperature(logits, labels))
    fitted = metrics.cross_entropy(logits / temperature, labels)
    groups = [fitted[labels == one] for one in np.unique(labels)] if balanced else [fitted]
    return {
        "top1": float((better < 1).mean()),
        "top5": float((better < 5).mean()),
        "loss": float(metrics.cross_entropy(logits, labels).mean()),
        "fitted_loss": float(np.mean([group.mean() for group in groups])),
    }


def _with_head(
    arrays: dict[str, np.ndarray], config: Config, kernel: np.ndarray, bias: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns a network's variables with another classifier, one without bias if it has none."""
    network = graph.of(config)
    name = network.weighted[-1].name
    shape = network.kernel_shape(name)
    head = {f"model/{name}/kernel": kernel.reshape(shape), f"model/{name}/bias": bias}
    return arrays | {key: array for key, array in head.items() if key in arrays}


def write(
    directory: Path,
    config: Config,
    classes: Sequence[Label],
    arrays: dict[str, np.ndarray],
    meta: dict,
) -> None:
    """Writes a model directory that predicts and can be trained on."""
    checkpoint.save(directory / model_directory.CHECKPOINTS, 0, arrays, meta)
    write_network(directory, config, classes, arrays)


def write_network(
    directory: Path, config: Config, classes: Sequence[Label], arrays: dict[str, np.ndarray]
) -> None:
    """Writes what a model directory needs to predict."""
    model_directory.write(directory, config, classes)
    content = writer.write(graph.of(config), graph.fold(config, arrays))
    files.write_bytes(directory / model_directory.LITERT, content)
