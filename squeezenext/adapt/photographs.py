"""Makes records of the photographs of `adapt`, also of those that a finished model goes on with.

Training goes on from another model directory, or in place: then the finished model is first moved
to the folder `before` of its directory.
"""

import dataclasses
import os
from pathlib import Path

from squeezenext import files
from squeezenext.cli import log
from squeezenext.convert import command as conversion
from squeezenext.convert import output, review, sources
from squeezenext.convert.listing import is_none
from squeezenext.convert.options import ConvertOptions
from squeezenext.doctor import command as doctor
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.model import directory as model_directory
from squeezenext.records import dataset

DEFAULT = "squeezenet_v1_1"  # the model to start from where none is named
MAX_SIDE = 400  # longest side of a record's image; larger images only take longer to read


def options(photos: Path, seed: int, links: bool, apply: str | Path | None) -> ConvertOptions:
    """Returns the options of the conversion, see the arguments of `adapt.adapt`."""
    layout, obeyed = sources.photographs_layout(photos), str(apply) if apply else None
    return ConvertOptions(
        layout, seed, max_side=MAX_SIDE, follow_links=links, apply=obeyed, none="left out"
    )


def groups(photos: Path, model_dir: Path, configuration: str, follow_links: bool) -> Path | None:
    """Returns the doctor's groups, None in a directory that an earlier release began without."""
    report = model_dir / model_directory.DOCTOR
    if (model_dir / model_directory.RECORDS).exists() and not (report / doctor.GROUPS).exists():
        return None
    return doctor.groups_once(photos, report, configuration, follow_links, log)


def going_on(how: ConvertOptions, model_dir: Path, configuration: str) -> ConvertOptions:
    """Returns the options with what the model knows that training goes on from, if it is `adapt`'s.

    A directory that an earlier release began goes on without. A class of that model stays a class,
    even if it is called none.
    """
    before, records = model_dir / model_directory.BEFORE, model_dir / model_directory.RECORDS
    start = Path(configuration)
    theirs = start / model_directory.RECORDS
    if not records.exists():
        before.unlink(missing_ok=True)  # a start with another --configuration left it
        for held in (theirs, theirs / model_directory.NONE):
            if (held / dataset.MANIFEST).is_file():
                earlier = before if before.exists() else start / model_directory.BEFORE
                review.remember(before, held, earlier)
    if any(is_none(label) for label in _classes(records) or _classes(theirs)):
        how = dataclasses.replace(how, none="a class")
    return dataclasses.replace(how, before=str(before)) if before.exists() else how


def _classes(records: Path) -> tuple:
    if not (records / dataset.MANIFEST).is_file():
        return ()
    return dataset.load_manifest(records).classes


def converted(photos: Path, records: Path, how: ConvertOptions) -> tuple[str, ...]:
    """Converts the photographs to records, unless that is done.

    Those of no class become records of their own, in the folder `none`.

    Returns:
      Sentences about photographs that could not be used, if there are any.

    Raises:
      OtherData: the records are of other photographs, or were made with other options.
      InputError: the photographs cannot be used.
    """
    manifests, faults = [conversion.convert(photos, records, how, log, table=True)], []
    if manifests[0].raw.get("none"):
        alone = dataclasses.replace(how, none="alone")
        manifests.append(conversion.convert(photos, records / model_directory.NONE, alone))
    for manifest in manifests:
        try:
            conversion.log_outcome(manifest)
        except SomeInputsFailed as error:
            faults.append(str(error))
    return tuple(faults)


def is_finished(model_dir: Path) -> bool:
    """Returns whether `adapt` came to its end in a directory."""
    names = (model_directory.ADAPT, model_directory.SCORES)
    return all((model_dir / name).is_file() for name in names)


def start(model_dir: Path, networks: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the models to start from: that in `before` of the directory where none is named."""
    aside = model_dir / model_directory.ASIDE
    if networks != (DEFAULT,) or not model_directory.is_one(aside):
        return networks
    return (os.path.realpath(aside),)


def record(
    photos: Path,
    model_dir: Path,
    networks: tuple[str, ...],
    *,
    seed: int,
    follow_links: bool,
    apply: str | Path | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Makes the records of the photographs, unless that is done.

    A finished model of other photographs is set aside, and is what training goes on from, unless
    another is named.

    Args:
      networks: the models to start from, see `start`.
      photos, model_dir, seed, follow_links, apply: as for `adapt.adapt`.

    Returns:
      The models to start from, and sentences about photographs that could not be used.

    Raises:
      InputError: the photographs cannot be used, or the directory was begun with others and is
        not finished.
    """

    def make(networks: tuple[str, ...]) -> tuple[str, ...]:
        review = _moved(apply, model_dir) or groups(photos, model_dir, networks[0], follow_links)
        how = options(photos, seed, follow_links, review)
        records = model_dir / model_directory.RECORDS
        return converted(photos, records, going_on(how, model_dir, networks[0]))

    aside = model_dir / model_directory.ASIDE
    try:
        return networks, make(networks)
    except output.OtherData as error:
        named = networks not in ((DEFAULT,), start(model_dir, (DEFAULT,)))
        if named or not is_finished(model_dir) or not _alike(model_dir, seed, apply):
            raise InputError(
                f"{model_dir} was begun with other photographs than are in {photos} now, or with "
                "another --seed, --follow_links or --apply; give another --model_dir."
            ) from error
    dropped = ", instead of the one that was there" if aside.exists() else ""
    log(
        f"{photos} holds other photographs than {model_dir} was made from: training goes on from "
        f"that model, which is kept in {aside}{dropped}."
    )
    model_directory.set_aside(model_dir)
    networks = start(model_dir, (DEFAULT,))
    return networks, make(networks)


def _alike(model_dir: Path, seed: int, apply: str | Path | None) -> bool:
    """Returns whether a finished model's records were made with this seed, and reviewed as now."""
    manifest = dataset.load_manifest(model_dir / model_directory.RECORDS)
    ours = manifest.raw.get("arguments", {}).get("seed") == seed
    return ours and (bool(apply) or (model_dir / model_directory.DOCTOR / doctor.GROUPS).exists())


def _moved(apply: str | Path | None, model_dir: Path) -> Path | None:
    """Returns the review's file, which was set aside with the model if it was a part of that."""
    if not apply:
        return None
    path, home = files.expanded(apply), model_dir.resolve()
    if path.exists() or not path.resolve().is_relative_to(home):
        return path
    moved = model_dir / model_directory.ASIDE / path.resolve().relative_to(home)
    return moved if moved.exists() else path
