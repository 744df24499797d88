"""Compresses a model into one small file that predict.py and evaluate read: Deep Compression.

    python -m squeezenext.compress --model_dir DIR|NAME --output FILE.sqz [--max_bytes N]
    python -m squeezenext.compress --model_dir DIR --output FILE.sqz --max_bytes 250000 \\
        --data_dir RECORDS --num_epochs 8 --density 0.35

Without --data_dir no image is needed: bits are shared out by what errors do to the answers on drawn
images. With it, photographs of the training split take their place and accuracy is told before and
after. With --num_epochs, too, the network is first pruned while it is retrained (half of the
epochs) and its shared values are trained (the other half), both with the dense network as teacher.
docs/compression.md has the method and the format.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from squeezenext import config_io, photographs, preprocessing
from squeezenext import trained as trained_models
from squeezenext.compression import allocation, sqz
from squeezenext.compression.allocation import Sharing
from squeezenext.compression.calibration import Probe, drawn
from squeezenext.compression.sharing import Initialization, Shared
from squeezenext.compression.sqz import Coder, Encoded
from squeezenext.config import Config, Distillation
from squeezenext.errors import InputError
from squeezenext.flags import run
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.trained import Trained

PROBES = 32  # images on which answers are compared
# Of the retraining, where the model's own recipe would be for many more epochs from scratch.
RECIPE = {"optimizer": "adam", "learning_rate": 0.0032, "schedule": "cosine", "batch_size": 32}
_SAY = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How to compress.

    Attributes:
      lossless: keep every weight to the last bit.
      max_bytes: of the file; None lets the answers move by `allocation.NEAR` at most.
      coder: see `sqz.encode`.
      sharing, initialization: see allocation.py; the second is k-means'.
      epochs: of retraining, 0 for none.
      density: of the weights that stay where the network is pruned and retrained.
      changes: of the retraining's recipe, as --set takes them.
    """

    lossless: bool = False
    max_bytes: int | None = None
    coder: Coder = "arithmetic"
    sharing: Sharing = "rate_distortion"
    initialization: Initialization = "linear"
    epochs: float = 0.0
    density: float = 0.35
    changes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.max_bytes is not None and self.max_bytes < 1:
            raise InputError(f"--max_bytes {self.max_bytes}: must be positive.")
        if self.lossless and self.epochs:
            raise InputError("--lossless keeps the weights, --num_epochs changes them: drop one.")
        if not 0 < self.density <= 1:
            raise InputError(f"--density {self.density}: must be above 0 and at most 1.")


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of the report: `error` is the relative one of its weights, root mean square."""

    layer: str
    weights: int
    density: float
    values: int
    bits: float  # a weight, zeros included
    bytes: int
    error: float


def compress(
    model_dir: str | Path,
    output: Path,
    method: Method,
    data_dir: str | Path | None = None,
    images: int = 2000,
    say: _SAY = lambda text: None,
) -> dict:
    """Compresses a model directory or a published model to a file.

    Args:
      output: the file to make.
      data_dir: records, for accuracy, for the probes and for retraining.
      images: how many of the validation split accuracy is told on, at most.
      say: is told of each step.

    Returns:
      The report: "bytes", "dense_bytes", "layers" (a `Row` each), "accuracy" or None.

    Raises:
      InputError: there is no such model or data, or the budget is impossible.
    """
    if method.epochs and not data_dir:
        raise InputError("--num_epochs needs --data_dir: there is nothing to train on.")
    if output.suffix != sqz.SUFFIX:
        raise InputError(f"--output {output}: its name must end in {sqz.SUFFIX}.")
    model = trained_models.load(model_dir)
    if method.lossless:
        encoded = _losslessly(model, method)
    elif method.epochs:
        encoded = _retrained(model, model_dir, data_dir, method, say)
    else:
        encoded = _shared(model, _probe(model, data_dir), method, say).encoded
    made = sqz.decode(encoded.data, str(output))
    report = {
        "file": str(output),
        "bytes": len(encoded.data),
        "dense_bytes": sum(array.nbytes for array in model.weights.values()),
        "coder": method.coder,
        "layers": [dataclasses.asdict(row) for row in _rows(model, made.weights, encoded)],
        "accuracy": _accuracy(model, made.weights, data_dir, images) if data_dir else None,
    }
    sqz.write(output, encoded.data)
    return report


def _losslessly(model: Trained, method: Method) -> Encoded:
    exact = all(np.array_equal(a, a.astype(np.float16)) for a in model.weights.values())
    kernels = {n.name: model.weights[f"{n.name}/kernel"] for n in model.graph.weighted}
    encoded = _encode(model, kernels, model.weights, method, wide=not exact)
    size = len(encoded.data)
    if method.max_bytes is not None and size > method.max_bytes:
        raise InputError(
            f"--max_bytes {method.max_bytes:,}: losslessly this network takes {size:,} bytes; "
            "allow more or drop --lossless."
        )
    return encoded


def _encode(model: Trained, kernels, weights, method: Method, wide: bool = False) -> Encoded:
    names = [node.name for node in model.graph.weighted]
    biases = {n: weights[f"{n}/bias"] for n in names if f"{n}/bias" in weights}
    return sqz.encode(model.config, model.labels, kernels, biases, coder=method.coder, wide=wide)


def _probe(model: Trained, data_dir: str | Path | None) -> Probe:
    if not data_dir:
        return Probe(model.graph, model.weights, drawn(model.config.images, PROBES))
    splits = ("train", "validation")
    shown = photographs.read(data_dir, splits, PROBES, model.config.images, model.labels)
    inputs = [_input(pixels, model.config) for pixels, _ in shown]
    return Probe(model.graph, model.weights, inputs)


def _input(pixels: np.ndarray, config: Config) -> np.ndarray:
    return preprocessing.normalize(pixels.astype(np.float32), config.images)


def _shared(model: Trained, probe: Probe, method: Method, say: _SAY) -> allocation.Trial:
    if method.sharing == "k_means":
        sharer = allocation.by_k_means(probe, method.initialization)
    else:
        sharer = allocation.by_rate_distortion(probe)

    def encode(kernels: allocation.Kernels) -> Encoded:
        return _encode(model, kernels, probe.weights, method)

    return allocation.search(sharer, encode, probe, method.max_bytes, say)


def _retrained(model: Trained, model_dir, data_dir, method: Method, say: _SAY) -> Encoded:
    """Prunes and retrains, shares, trains the values."""
    from squeezenext import quiet

    quiet.import_tensorflow()
    from squeezenext import data, graph
    from squeezenext.compression import pruning, retraining
    from squeezenext.foreign import named
    from squeezenext.records import dataset
    from squeezenext.training import model_directory

    found = dataset.find(data_dir, None, None)
    dataset.check_split(found, "train")
    reader = data.Reader(found.splits["train"])
    config = _recipe(model.config, str(model_dir), method)
    probe = _probe(model, data_dir)
    importance = pruning.importance(probe.graph, moments := probe.moments(), probe.costs(moments))
    say(f"Pruning to {method.density:.0%} of the weights in {config.training.epochs} epochs.")
    arrays = model_directory.read_weights(named.resolve(model_dir))
    arrays = retraining.prune(config, arrays, reader, importance, method.density)
    pruned = dataclasses.replace(model, weights=graph.fold(config, arrays))
    trial = _shared(pruned, _probe(pruned, data_dir), method, say)
    say(f"Training the shared values in {config.training.epochs} epochs.")
    kernels, folded = retraining.train_values(config, pruned.weights, trial.kernels, reader)
    return _within(pruned, kernels, folded, method, trial)


def _within(model, kernels: dict[str, Shared], folded, method: Method, trial) -> Encoded:
    """Codes the trained values; they may take some bytes more than those they come from."""
    encoded = _encode(model, kernels, folded, method)
    if method.max_bytes is not None and len(encoded.data) > method.max_bytes:
        return trial.encoded
    return encoded


def _recipe(config: Config, teacher: str, method: Method) -> Config:
    """Returns the configuration with which either half of the retraining is done."""
    training = dataclasses.replace(
        config.training,
        **RECIPE,
        epochs=method.epochs / 2,
        warmup_epochs=0.0,
        frozen_epochs=0,
        ema=0.0,
        weight_decay=0.0,
        distillation=Distillation(teacher=teacher, temperature=2.0, label_share=0.3),
    )
    images = dataclasses.replace(config.images, progressive=())
    config = dataclasses.replace(config, training=training, images=images)
    for change in method.changes:
        config = config_io.override(config, change)
    return config


def _rows(model: Trained, weights, encoded: Encoded) -> list[Row]:
    rows = []
    for name, size in encoded.layers.items():
        dense, kernel = model.weights[f"{name}/kernel"], weights[f"{name}/kernel"]
        error = np.sqrt(np.square(kernel - dense, dtype=np.float64).sum())
        scale = np.sqrt(np.square(dense, dtype=np.float64).sum()) or 1.0
        rows.append(
            Row(
                layer=name,
                weights=kernel.size,
                density=round(float((kernel != 0).mean()), 4),
                values=len(np.unique(kernel[kernel != 0])),
                bits=round(8 * size / kernel.size, 3),
                bytes=size,
                error=round(float(error / scale), 5),
            )
        )
    return rows


def _accuracy(model: Trained, weights, data_dir, images: int) -> dict:
    """Returns {"images", "before", "after", "agreement"}: top-1 as shares."""
    splits = ("validation", "test", "train")
    runners = [
        Runner(writer.write(model.graph, arrays), 2, "the network")
        for arrays in (model.weights, weights)
    ]
    counted = []
    for pixels, label in photographs.read(
        data_dir, splits, images, model.config.images, model.labels
    ):
        shown = _input(pixels, model.config)
        before, after = (int(runner.run(shown)[0].argmax()) for runner in runners)
        counted.append((before == label, after == label, before == after))
    before, after, agreement = np.mean(counted, 0)
    return {
        "images": len(counted),
        "before": float(before),
        "after": float(after),
        "agreement": float(agreement),
    }


def print_report(report: dict) -> None:
    """Prints the report as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("layer", "weights", "density", "values", "bits", "bytes", "error"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for row in report["layers"]:
        table.add_row(
            row["layer"],
            f"{row['weights']:,}",
            f"{row['density']:.3f}",
            str(row["values"]),
            f"{row['bits']:.2f}",
            f"{row['bytes']:,}",
            f"{row['error']:.4f}",
        )
    console = Console()
    console.print(table)
    ratio = report["dense_bytes"] / report["bytes"]
    console.print(f"{report['file']}: {report['bytes']:,} bytes, 1/{ratio:.1f} of float32.")
    if accuracy := report["accuracy"]:
        console.print(
            f"top-1 on {accuracy['images']:,} images: {accuracy['before']:.4f} before, "
            f"{accuracy['after']:.4f} after; the same answer on {accuracy['agreement']:.2%}."
        )


def _define(values: flags.FlagValues) -> None:
    at = {"flag_values": values}
    choices = {
        "coder": ("arithmetic", list(sqz.CODERS), "How the file is coded."),
        "sharing": ("rate_distortion", ["rate_distortion", "k_means"], "How weights are shared."),
        "initialization": ("linear", ["linear", "density", "random"], "Of k-means."),
    }
    flags.DEFINE_string("model_dir", None, "Model directory or published model's name.", **at)
    flags.DEFINE_string("output", None, "The .sqz file to make.", **at)
    flags.DEFINE_string("data_dir", None, "Folder with the shards and manifest.json.", **at)
    flags.DEFINE_bool("lossless", False, "Keep every weight to the last bit.", **at)
    flags.DEFINE_integer("max_bytes", None, "Of the whole file.", **at)
    for name, (default, allowed, told) in choices.items():
        flags.DEFINE_enum(name, default, allowed, told, **at)
    flags.DEFINE_float("num_epochs", 0.0, "Of retraining: half pruning, half values.", 0.0, **at)
    flags.DEFINE_float("density", 0.35, "Of the weights that retraining keeps.", **at)
    flags.DEFINE_multi_string("set", [], "training.FIELD=VALUE of the retraining.", **at)
    flags.DEFINE_integer("images", 2000, "Of the validation split, for accuracy.", 1, **at)
    flags.DEFINE_bool("json", False, "The report as one JSON document.", **at)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    _define(values)

    def command(values, positional):
        if positional:
            raise InputError(f"Unexpected argument {positional[0]!r}; flags begin with --.")
        for name in ("model_dir", "output"):
            if not values[name].value:
                raise InputError(f"--{name} is missing.")
        method = Method(
            lossless=values["lossless"].value,
            max_bytes=values["max_bytes"].value,
            coder=values["coder"].value,
            sharing=values["sharing"].value,
            initialization=values["initialization"].value,
            epochs=values["num_epochs"].value,
            density=values["density"].value,
            changes=tuple(values["set"].value),
        )
        report = compress(
            values["model_dir"].value,
            Path(values["output"].value),
            method,
            values["data_dir"].value,
            values["images"].value,
            lambda text: print(text, file=sys.stderr),
        )
        print(json.dumps(report)) if values["json"].value else print_report(report)

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
