"""Makes the files to ship of a trained network, scores them, and writes report and card."""

import dataclasses
from pathlib import Path

import numpy as np

from squeezenext import export
from squeezenext.adapt import probe
from squeezenext.adapt.plan import Plan
from squeezenext.cli import Log, plural
from squeezenext.compress.allocation import BudgetTooSmall
from squeezenext.compress.command import compress
from squeezenext.compress.method import Method
from squeezenext.convert.places import named_from
from squeezenext.errors import InputError, NotFinite, NotKept
from squeezenext.evaluate import report
from squeezenext.evaluate.command import evaluate, subject
from squeezenext.files import origin_note, read_document, write_bytes, write_json
from squeezenext.labels import class_names
from squeezenext.metrics import Evaluation, balanced_accuracy, remarks
from squeezenext.model import card, loading
from squeezenext.model import directory as model_directory
from squeezenext.network import graph, known
from squeezenext.predict.answers import View
from squeezenext.predict.predictor import Predictor
from squeezenext.records.dataset import MANIFEST, Dataset, Split, find_dataset

PRECISIONS = ("float32", "int8")
FITTED = 500  # most images of a split that `known` is fitted to; they take 8 s on two cores


@dataclasses.dataclass(frozen=True)
class Shipped:
    """Files that were made.

    Attributes:
      files: paths by name: "float32", "int8", "sqz".
      faults: a sentence for each file that could not be made.
    """

    files: dict[str, Path]
    faults: tuple[str, ...] = ()

    def __add__(self, more: "Shipped") -> "Shipped":
        return Shipped(self.files | more.files, self.faults + more.faults)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The result of `adapt.adapt`.

    Attributes:
      model_dir: the model directory.
      plan: the plan that was followed.
      scores: top-1 of "network" and of each file, on `split`.
      balanced: balanced accuracy of the same, the mean over the classes.
      remarks: sentences about what the scores hide, such as untested classes.
      split: "test" if the photographs have that split, else "validation". Neither is trained on,
        and a test split has no part in any choice.
      images: number of images in `split`.
      files: paths of the files by precision, "sqz" among them if it was made.
      report: path of the report's index.html.
      seconds: duration.
      faults: a sentence for each photograph or file that could not be used or made.
    """

    model_dir: Path
    plan: Plan
    scores: dict[str, float]
    split: str
    images: int
    files: dict[str, Path]
    report: Path
    seconds: float
    faults: tuple[str, ...] = ()
    balanced: dict[str, float] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def fit_known_once(model_dir: Path, found: Dataset, log: Log) -> None:
    """Fits the score of unknown images, unless that is done or there are too few photographs."""
    if (model_dir / model_directory.KNOWN).is_file():
        return
    if (count := found.splits["validation"].examples) < known.LEAST:
        log(
            f"warning: this model never answers unknown: that takes {known.LEAST} held-out "
            f"photographs, and there {'is' if count == 1 else 'are'} {count}; add photographs."
        )
        return
    predictor = Predictor(model_dir, inside=True)
    train, held_out = (_outputs(predictor, found.splits[name]) for name in ("train", "validation"))
    log(f"The least usual 5 % of {plural(len(held_out[0]), 'validation image')} become unknown.")
    others, direction = train[0][:0], None
    if none := _none(model_dir):
        others, _ = _outputs(predictor, none.splits["train"], len(none.classes or ()))
        direction = _direction(known.units(train[0]), known.units(others))
    fitted = known.fit(graph.of(predictor.config), train, held_out, direction)
    model_directory.write_known(model_dir, fitted, len(train[0]), len(held_out[0]), len(others))
    content = loading.litert(loading.load(model_dir))
    write_bytes(model_dir / model_directory.LITERT, content)


def _outputs(predictor: Predictor, split: Split, classes: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features and logits of up to `FITTED` images of a split; see `probe.viewed`."""

    def both(view: View) -> np.ndarray:
        return np.concatenate([np.asarray(view.features), view.logits])

    outputs, _ = probe.viewed(predictor, split, FITTED, both, classes)
    features, logits = np.split(outputs, [-len(predictor.labels)], axis=1)
    return features, logits


def _none(model_dir: Path) -> Dataset | None:
    """Returns the photographs of no class, None without any to learn from."""
    records = model_dir / model_directory.RECORDS / model_directory.NONE
    found = find_dataset(records, None, None) if (records / MANIFEST).is_file() else None
    return found if found and "train" in found.splits else None


def _direction(units: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns a linear classifier, [channels], that is greater for units than for `others`."""
    labels = np.arange(len(units) + len(others)) < len(units)
    values = np.concatenate([units, others]).astype(np.float32)
    kernel, _ = probe.fit_classifier(probe.Examples(values, labels.astype(np.int64)), 2)
    return kernel[:, 1] - kernel[:, 0]


def export_once(model_dir: Path, records: Path, sha256: str, log: Log) -> Shipped:
    """Writes the LiteRT files, unless they are there already for weights of this hash.

    A file whose answers differ from the network's is a fault of the result, not an error: all other
    work goes on without it.
    """
    (model_dir / model_directory.EXPORTED).mkdir(exist_ok=True)
    made, faults = {}, []
    source = _source(model_dir, sha256)
    for precision in PRECISIONS:
        path = model_dir / model_directory.EXPORTED / f"model-{precision}.tflite"
        if not _is_made(path, source):
            _remove_of_others(path, source)
            log(f"Exporting {precision}.")
            try:
                export.export(model_dir, "litert", path, precision, records)
            except NotKept as error:
                faults.append(f"{path} was not made: {error} All else is done.")
                continue
            _remember(path, source)
        made[precision] = path
    return Shipped(made, tuple(faults))


def compress_once(
    model_dir: Path, records: Path, sha256: str, max_bytes: int, epochs: float, log: Log
) -> Shipped:
    """Writes the `.sqz` file, unless it is there already for weights of this hash.

    Errors of `compress`, such as a budget that is too small, become a fault of the result.
    """
    path = model_dir / model_directory.EXPORTED / model_directory.COMPRESSED
    source = _source(model_dir, sha256)
    if not _is_made(path, source | {"max_bytes": max_bytes}):
        _remove_of_others(path, source)  # compression may fail, and an outdated file must not stay
        method = Method(max_bytes=max_bytes, epochs=epochs)
        log(f"Compressing into {max_bytes:,} bytes.")
        try:
            compress(model_dir, path, method, records, log=log)
        except (InputError, NotFinite, NotKept) as error:
            return Shipped({}, (f"{path} was not made: {_reason(error)}",))
        _remember(path, source | {"max_bytes": max_bytes})
    return Shipped({"sqz": path})


def _reason(error: Exception) -> str:
    """Returns why there is no `.sqz` file, with advice that names `adapt`'s flags."""
    if isinstance(error, BudgetTooSmall):
        return (
            f"{error} All else is done; more --minutes in another --model_dir may do it, or "
            "another --max_bytes (0 makes no such file)."
        )
    if isinstance(error, NotFinite):
        return (
            "its retraining came to a gradient that is not finite. All else is done; a greater "
            "--max_bytes may do without retraining (0 makes no such file)."
        )
    return f"{error} All else is done."


def _source(model_dir: Path, sha256: str) -> dict:
    """Returns what a file is made of: the weights, the fitted temperature and `known`."""
    temperature = model_directory.read_temperature(model_dir)
    fitted = model_directory.read_json(model_dir / model_directory.KNOWN).get("known")
    return {"weights_sha256": sha256, "temperature": temperature, "known": fitted}


def _remove_of_others(path: Path, source: dict) -> None:
    """Removes a file that was made of another source; one for another budget stays."""
    try:
        made_of = read_document(origin_note(path))
        other = any(made_of[name] != value for name, value in source.items())
    except (OSError, ValueError, KeyError, TypeError):
        other = True
    if other:
        path.unlink(missing_ok=True)
        origin_note(path).unlink(missing_ok=True)


def _is_made(path: Path, source: dict) -> bool:
    """True if the file exists and was made of this very source."""
    try:
        return path.is_file() and read_document(origin_note(path)) == source
    except (OSError, ValueError):
        return False


def _remember(path: Path, source: dict) -> None:
    write_json(origin_note(path), source)


def held_out(found: Dataset) -> str:
    """Returns the split to score on: "test" if there is one, else "validation"."""
    test = found.splits.get("test")
    return "test" if test and test.examples else "validation"


def score(
    model_dir: Path, records: Path, found: Dataset, files: dict[str, Path], photos: Path
) -> dict[str, Evaluation]:
    """Scores "network" and the files on the held-out split; writes report, scores.json and card.

    The report links its mistakes to the photographs in `photos`, if they lie there as files.
    """
    split = held_out(found)
    models = {"network": model_dir, **files}
    results = {
        name: evaluate(model_dir=model, data_dir=records, split=split)
        for name, model in models.items()
    }
    # The float32 file is the same network; evaluation of a directory gives no features. On the
    # validation images, to which the threshold was fitted, the share would be 95 % in any case.
    if "float32" in results and split == "test":
        accepted = results["float32"].known
        results["network"] = dataclasses.replace(results["network"], known=accepted)
    refused, taught = _refused(model_dir, models)
    page = model_dir / model_directory.REPORT
    about = subject(model_dir, found, split, named_from(photos, split))
    report.write(page, about, results["network"], taught)
    document = {
        "split": split,
        "images": {name: part.examples for name, part in found.splits.items()},
        "network": _figures(results["network"]) | refused.get("network", {}),
        "remarks": [
            *remarks(results["network"], class_names(found.classes or ())),
            *taught,
            *_since_before(model_dir, found, results["network"]),
        ],
        "files": {
            path.relative_to(model_dir).as_posix(): _figures(results[name]) | refused.get(name, {})
            for name, path in files.items()
        },
    }
    write_json(model_dir / model_directory.SCORES, document)
    card.write(model_dir)
    return results


def _refused(
    model_dir: Path, models: dict[str, Path]
) -> tuple[dict[str, dict[str, float]], tuple[str, ...]]:
    """Returns what share of the held-out photographs of no class each model refuses, in words, too.

    Nothing was fitted to these. Without any, or without `known`, it is {} and ().
    """
    none = _none(model_dir)
    parts = [part for name, part in none.splits.items() if name != "train"] if none else []
    if not none or not parts or not (model_dir / model_directory.KNOWN).is_file():
        return {}, ()
    shares, count = {}, sum(part.examples for part in parts)
    for name, model in models.items():
        predictor, number = Predictor(model), 0
        for part in parts:
            known_of, _ = probe.viewed(
                predictor, part, part.examples, lambda v: np.array(v.known), len(none.classes or ())
            )
            number += int((known_of < 0.5).sum())
        shares[name] = {"refused": number / count}
    refused = plural(round(count * shares["network"]["refused"]), "is refused", "are refused")
    held = plural(count, "held-out photograph")
    return shares, (f"Of {held} that show none of the classes {refused}.",)


def _since_before(model_dir: Path, found: Dataset, result: Evaluation) -> list[str]:
    """Returns a sentence that compares the network with the one that training went on from."""
    if not (model_dir / model_directory.BEFORE).exists():
        return []
    start = model_directory.read_json(model_dir / model_directory.ADAPT)["configuration"]
    predictor = Predictor(model_dir / start)  # a path from there, or from the root
    classes, split = found.classes or (), found.splits[held_out(found)]
    theirs = {label.synset: number for number, label in enumerate(predictor.labels)}
    expected = np.array([theirs.get(label.synset, -1) for label in classes])[result.labels]
    logits, _ = probe.viewed(
        predictor, split, split.examples, lambda view: view.logits, len(classes)
    )
    common = expected >= 0
    if not common.any():
        return []
    before, now = ((logits.argmax(1) == expected)[common].mean(), result.top1[common].mean())
    return [
        f"On the {plural(int(common.sum()), f'{split.name} image')} of the classes that the model "
        f"before has, its top-1 is {before:.4f}, and that of this one {now:.4f}."
    ]


def _figures(result: Evaluation) -> dict:
    return result.summary() | {"balanced_accuracy": balanced_accuracy(result)}


def adapted(
    model_dir: Path,
    plan: Plan,
    found: Dataset,
    results: dict[str, Evaluation],
    made: Shipped,
    faults: tuple[str, ...],
    seconds: float,
) -> Adapted:
    """Sums up what was made; `faults`: a sentence for each photograph that could not be used."""
    split = held_out(found)
    return Adapted(
        model_dir=model_dir,
        plan=plan,
        scores={name: result.summary()["top1"] for name, result in results.items()},
        split=split,
        images=found.splits[split].examples,
        files=made.files,
        report=model_dir / model_directory.REPORT / "index.html",
        seconds=seconds,
        faults=faults + made.faults,
        balanced={name: balanced_accuracy(result) for name, result in results.items()},
        remarks=tuple(model_directory.read_json(model_dir / model_directory.SCORES)["remarks"]),
    )
