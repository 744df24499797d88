"""Measures the doctor: wrong labels that it names, what its advice is worth, groups, time.

    python scripts/benchmarks/doctor.py PHOTOS [--share 0.1] [--copies 4] [--seeds 3]

A share of the training labels is exchanged, and the doctor must name them; the classifier of
adapt's first answer is scored on the test split before and after its advice is followed. Then
each training photograph is copied several times under slight crops, and all copies must lie in one
split.
"""

import dataclasses
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli
from squeezenext.adapt import probe
from squeezenext.adapt.probe import Examples
from squeezenext.convert import folder, review
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.review import Row
from squeezenext.doctor import command, features, findings
from squeezenext.doctor.features import Features
from squeezenext.errors import InputError

_OPTIONS = ConvertOptions("folder")


def collected(photos: Path, splits: tuple[str, ...]) -> Collection:
    """Returns the photographs of these splits."""
    found = folder.collect(photos, _OPTIONS, folder.ClassNames())
    parts = {name: split for name, split in found.splits.items() if name in splits}
    return dataclasses.replace(found, splits=parts)


def exchanged(collection: Collection, share: float, seed: int) -> tuple[Collection, set[str]]:
    """Returns the collection with a share of its training labels exchanged, and their names."""
    rng, train = np.random.default_rng(seed), collection.splits["train"]
    table, classes = train.table.copy(), len(collection.classes)
    chosen = rng.choice(len(table), round(share * len(table)), replace=False)
    steps = rng.integers(1, classes, len(chosen))
    table["label"][chosen] = (table["label"][chosen] - 1 + steps) % classes + 1
    splits = {"train": dataclasses.replace(train, table=table)}
    return dataclasses.replace(collection, splits=splits), {train.names[n] for n in chosen}


def named(rows: list[Row]) -> set[str]:
    """Returns the photographs whose label the doctor thinks wrong."""
    return {row.file for row in rows if "wrong label" in row.finding}


def advised(collection: Collection, rows: list[Row]) -> Collection:
    """Returns the training photographs as `--apply doctor.csv` leaves them."""
    with tempfile.TemporaryDirectory() as place:
        review.write(Path(place) / "doctor.csv", rows)
        options = dataclasses.replace(_OPTIONS, apply=str(Path(place) / "doctor.csv"))
        return review.split(collection, options)


def examples(collection: Collection, found: Features, names: list[str]) -> Examples:
    """Returns the features and the classes of all photographs of a collection.

    Args:
      collection: some of the photographs, perhaps with other labels.
      found: the features of the photographs of `names`.
      names: all photographs.
    """
    place = {names[row]: number for number, row in enumerate(found.rows)}
    labels = {
        place[name]: label - 1
        for part in collection.splits.values()
        for name, label in zip(part.names, part.table["label"], strict=True)
        if name in place
    }
    return Examples(found.values[[*labels]], np.array([*labels.values()]))


def score(train: Examples, test: Examples, classes: int) -> str:
    """Returns the accuracy on test photographs of the classifier of adapt's first answer."""
    kernel, bias = probe.fit_classifier(train, classes)
    return f"{((test.values @ kernel + bias).argmax(1) == test.labels).mean():.3f}"


def copied(photos: Path, copies: int, place: Path) -> None:
    """Writes crops of each training photograph that lack up to a tenth of each side."""
    rng = np.random.default_rng(0)
    train = collected(photos, ("train",)).splits["train"]
    for path, name in zip(train.files, train.names, strict=True):
        image = Image.open(path).convert("RGB")
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        for number in range(copies):
            left, top = rng.uniform(0, 0.05, 2) * image.size
            right, bottom = rng.uniform(0.95, 1, 2) * image.size
            crop, data = image.crop((left, top, right, bottom)), io.BytesIO()
            crop.save(data, "JPEG", quality=int(rng.integers(70, 95)))
            (place / name).with_suffix(f".{number}.jpg").write_bytes(data.getvalue())


def torn(collection: Collection, rows: list[Row], place: Path) -> int:
    """Returns how many photographs have copies in two splits once doctor.csv is applied."""
    review.write(place, [dataclasses.replace(row, action="keep") for row in rows])
    parts = review.split(collection, dataclasses.replace(_OPTIONS, apply=str(place))).splits
    sides = [{name.rpartition(".")[0][:-2] for name in part.names} for part in parts.values()]
    return len(sides[0] & sides[1])


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_float("share", 0.1, "Share of the labels to exchange.", **at)
    flags.DEFINE_integer("copies", 4, "Crops of each photograph; 0 for none.", 0, **at)
    flags.DEFINE_integer("seeds", 3, "Number of draws of the exchanged labels.", 1, **at)

    def measure(values: flags.FlagValues, positional: list[str]) -> None:
        if len(positional) != 1:
            raise InputError("Give one folder with train and test: doctor.py PHOTOS")
        photos = Path(positional[0])
        measure_labels(photos, values["share"].value, values["seeds"].value)
        if copies := values["copies"].value:
            measure_copies(photos, copies)

    return cli.run(measure, values, __doc__, argv, positional=True)


def measure_labels(photos: Path, share: float, seeds: int) -> None:
    """Prints how many exchanged labels are found, and what following the advice is worth."""
    clean, start = collected(photos, ("train",)), time.process_time()
    names, classes = clean.splits["train"].names, len(clean.classes)
    found = features.extract(review.joined(clean.splits))
    seconds = time.process_time() - start
    held = collected(photos, ("test",))
    test = examples(held, features.extract(review.joined(held.splits)), held.splits["test"].names)
    cli.say(f"features of {len(found.rows)} photographs: {seconds:.0f} CPU s")
    for seed in [None, *range(seeds)]:
        noisy, wrong = (clean, set()) if seed is None else exchanged(clean, share, seed)
        rows = findings.diagnose(noisy, found).rows
        says = named(rows)
        hits = len(says & wrong)
        before, after = (
            score(examples(each, found, names), test, classes)
            for each in (noisy, advised(noisy, rows))
        )
        found_of = f"{len(says)} named"
        if wrong:
            found_of += (
                f", recall {hits / len(wrong):.3f}, precision {hits / max(1, len(says)):.3f}"
            )
        cli.say(
            f"{'as they are' if seed is None else f'seed {seed}'}: {len(wrong)} labels exchanged, "
            f"{found_of}; test score {before}, as advised {after}"
        )


def measure_copies(photos: Path, copies: int) -> None:
    """Prints how well copies of each photograph are kept together, and the costs."""
    with tempfile.TemporaryDirectory() as place:
        copied(photos, copies, Path(place) / "photos")
        many = collected(Path(place) / "photos", ("train",))
        start = time.process_time()
        diagnosis = command.diagnose(many, "squeezenet_v1_1", Path(place) / "features.npz")
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        apart = torn(many, diagnosis.rows, Path(place) / "doctor.csv")
        cli.say(
            f"{len(diagnosis.listing.names)} copies: {seconds:.0f} CPU s, {memory:.2f} GB at most",
            f"{apart} photographs have copies in both splits",
            *findings.sentences(diagnosis),
        )


if __name__ == "__main__":
    sys.exit(main())
