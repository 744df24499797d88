"""Makes the content of a `.sqz` file: lossless, quantized, or pruned, retrained and quantized."""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np

from squeezenext import progress, tf_import
from squeezenext.cli import Log
from squeezenext.compress import allocation, report
from squeezenext.compress.allocation import Compressed
from squeezenext.compress.integer import Calibration, pixels_of
from squeezenext.compress.method import Method
from squeezenext.compress.probes import Probe, synthetic
from squeezenext.errors import InputError, NotFinite, NotKept
from squeezenext.model import loading, published
from squeezenext.network import graph
from squeezenext.network.integer import IntegerNetwork, floats
from squeezenext.network.model import Model
from squeezenext.records import dataset, samples
from squeezenext.records.reader import Reader
from squeezenext.sqz import file as sqz
from squeezenext.sqz.file import Encoded

PROBES = 32  # number of images on which answers are compared


def make_sqz(
    model: Model, model_dir: str | Path, data_dir: str | Path | None, method: Method, log: Log
) -> Compressed:
    """Makes the file of a model. If there are two ways, the one whose answers move less is taken.

    They are compared on the probe images, synthetic ones or photographs of the training split, so
    that the images on which accuracy is reported have no part in the choice.

    The arguments are those of `command.compress`; `model` was loaded from `model_dir`.

    Raises:
      InputError: the budget is impossible, or the data are missing.
      NotFinite: the retraining's gradient is not finite, and there is no file without retraining.
    """
    if method.lossless:
        return _losslessly(model, method)
    probe = _probe(model, data_dir)
    if not method.epochs:
        return _quantized(model, probe, method, method.max_bytes, log)
    # A large budget needs no retraining, and too few epochs do harm, so both ways are compared.
    # Without a budget the two files would differ in size, and divergence would decide nothing.
    plain = _without_training(model, probe, method, log) if method.max_bytes else None
    try:
        retrained = _retrained(model, model_dir, data_dir, probe, method, log)
    except (InputError, NotFinite) as error:
        if not plain:
            raise
        log(f"{error} The file without retraining is kept.")
        return plain
    if not plain or retrained.nats < plain.nats:
        return retrained
    log("The file without retraining is kept: its answers are nearer to the dense network's.")
    return plain


def verify_sqz(made: Compressed, output: Path) -> None:
    """Decodes the file and compares its weights; `output` names it in messages.

    Raises:
      NotKept: the weights are not those that were written.
    """
    found = sqz.decode(made.encoded.data, str(output))
    for name, array in made.weights.items():
        if not np.array_equal(found.weights[name], array):
            raise NotKept(f"The file gives another {name} than was written; it was not kept.")
    if made.network and not _alike(made.network, found.integer, found.config.images.size):
        raise NotKept("The file gives other logits than was written; it was not kept.")


def _alike(written: IntegerNetwork, read: IntegerNetwork | None, size: int) -> bool:
    """Compares the logits of one image, of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    return read is not None and np.array_equal(written.run(noise), read.run(noise))


def _losslessly(model: Model, method: Method) -> Compressed:
    exact = all(np.array_equal(a, a.astype(np.float16)) for a in model.weights.values())
    kernels = {n.name: model.weights[f"{n.name}/kernel"] for n in model.graph.weighted}
    encoded = _file(model, kernels, model.weights, wide=not exact)
    size = len(encoded.data)
    if method.max_bytes is not None and size > method.max_bytes:
        raise InputError(
            f"--max_bytes {method.max_bytes:,}: losslessly this network takes {size:,} bytes; "
            "allow more or drop --lossless."
        )
    return Compressed(encoded, model.weights)


def _encode(model: Model, weights, calibration: Calibration | None, kernels) -> Compressed:
    """Makes the file of quantized kernels; `weights` has the biases."""
    if not calibration:
        encoded = _file(model, kernels, weights)
        return Compressed(encoded, allocation.stored(weights, kernels), kernels)
    values = {f"{name}/kernel": kernel.values for name, kernel in kernels.items()}
    network = calibration.network({**weights, **values})
    encoded, found = sqz.encode_whole(model, network), floats(network, model.config.images)
    return Compressed(encoded, found, kernels, network=network)


def _file(model: Model, kernels, weights, wide: bool = False) -> Encoded:
    names = [node.name for node in model.graph.weighted]
    biases = {n: weights[f"{n}/bias"] for n in names if f"{n}/bias" in weights}
    return sqz.encode(model, kernels, biases, wide)


def _probe(model: Model, data_dir: str | Path | None) -> Probe:
    if not data_dir:
        images = synthetic(model.config.images, PROBES)
        return Probe(model.graph, model.weights, images, is_synthetic=True)
    splits = ("train", "validation")
    read = samples.read(data_dir, splits, PROBES, model.config.images, model.labels)
    inputs = [report.normalized(pixels, model.config) for pixels, _ in read]
    return Probe(model.graph, model.weights, inputs)


def _quantized(
    model: Model, probe: Probe, method: Method, max_bytes: int | None, log: Log
) -> Compressed:
    calibration = _calibrated(model, probe) if method.integer else None
    encode = functools.partial(_encode, model, probe.weights, calibration)
    _ = probe.sensitivities  # they show their own progress
    tried = itertools.count(1)
    with progress.Bar("Compressing", None) as bar:
        made = allocation.search(
            encode,
            probe,
            max_bytes,
            lambda trial: bar.update(0, f"Compressing: trial {next(tried)}: {trial}"),
            whole=method.integer,
        )
    return _measured(made, probe, model, log) if method.integer else made


def _calibrated(model: Model, probe: Probe) -> Calibration:
    return Calibration(model.graph, probe.weights, model.config.images, probe.inputs)


def _measured(made: Compressed, probe: Probe, model: Model, log: Log) -> Compressed:
    """Compares the answers of whole numbers, of which the search saw the weights alone.

    Raises:
      InputError: they are another network's.
    """
    network = made.network
    pixels = pixels_of(probe.inputs, model.config.images)
    logits = np.stack([network.run(image) * network.logit_scale for image in pixels])
    nats, information = probe.compare_logits(logits)
    log(f"With whole activations the answers move by {nats:.4f} nats.")
    made = dataclasses.replace(made, nats=nats, information=information)
    if why := allocation.lost(made):
        raise allocation.BudgetTooSmall(f"In whole numbers the network's {why}.")
    return made


def _without_training(model, probe: Probe, method: Method, log: Log) -> Compressed | None:
    log("Quantizing the dense network's weights, to compare with.")
    try:
        return _quantized(model, probe, method, method.max_bytes, log)
    except InputError as error:
        log(f"Without retraining: {error}")
        return None


def _retrained(model: Model, model_dir, data_dir, probe, method: Method, log: Log) -> Compressed:
    """Prunes and retrains the network, quantizes it and trains the codebooks."""
    tf_import.import_tensorflow()
    from squeezenext.compress import retraining

    found = dataset.find_dataset(data_dir, None, None)
    dataset.check_split(found, "train")
    reader = Reader(found.splits["train"])
    examples = reader.split.examples
    config = retraining.for_examples(method.recipe(model.config, str(model_dir)), examples)
    importance = retraining.importance(probe)
    log(f"Pruning to {method.density:.0%} of the weights in {config.training.epochs} epochs.")
    dense = loading.variables(published.resolve(model_dir))
    arrays = retraining.prune(config, dense, reader, importance, method.density)
    pruned = dataclasses.replace(model, weights=graph.fold(config, arrays))
    near = _probe(pruned, data_dir)
    trial = _quantized(pruned, near, method, method.bytes_before_training(), log)
    log(f"Training the codebooks in {config.training.epochs} epochs.")
    kernels, folded = retraining.train_values(config, pruned.weights, trial.kernels, reader)
    calibration = _calibrated(pruned, near) if method.integer else None
    made = _encode(pruned, folded, calibration, kernels)
    size = len(made.encoded.data)
    if method.max_bytes is not None and size > method.max_bytes:
        log(f"The trained codebooks need {size:,} bytes: those before training are kept.")
        made = trial
    else:
        made = dataclasses.replace(made, values_trained=True)
    nats, information = probe.compare(made.weights)
    made = dataclasses.replace(made, retrained=True, nats=nats, information=information)
    made = _measured(made, probe, model, log) if method.integer else made
    nats = made.nats
    if why := allocation.lost(made):  # the search compared with the pruned network
        raise allocation.BudgetTooSmall(
            f"Retrained with {method.density:.0%} of its weights, the network's {why} "
            f"({nats:.1f} nats away)."
        )
    log(f"Retrained, the answers are {nats:.4f} nats from the dense network's.")
    return made
