"""Measures the doctor: wrong labels that it names, groups that it keeps together, time.

    python scripts/benchmarks/doctor.py PHOTOS [--share 0.1] [--copies 4] [--seeds 3]

A share of the training labels is exchanged, and the doctor must name them. Then each training
photograph is copied several times under slight crops, and all copies must lie in one split.
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
from squeezenext.convert import folder, review
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.review import Row
from squeezenext.doctor import command, features, findings

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
        photos = Path(positional[0])
        clean, start = collected(photos, ("train",)), time.process_time()
        found = features.extract(review.joined(clean.splits))
        count = len(found.rows)
        cli.say(f"features of {count} photographs: {time.process_time() - start:.0f} CPU s")
        for seed in range(values["seeds"].value):
            noisy, wrong = exchanged(clean, values["share"].value, seed)
            says = named(findings.diagnose(noisy, found).rows)
            hits = len(says & wrong)
            cli.say(
                f"seed {seed}: {len(wrong)} labels exchanged, {len(says)} named, "
                f"recall {hits / len(wrong):.3f}, precision {hits / max(1, len(says)):.3f}"
            )
        cli.say(f"as they are: {len(named(findings.diagnose(clean, found).rows))} named")
        if copies := values["copies"].value:
            measure_copies(photos, copies)

    return cli.run(measure, values, __doc__, argv, positional=True)


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
