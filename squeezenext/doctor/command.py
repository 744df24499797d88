"""Finds faults among photographs before a network is trained on them.

    python -m squeezenext.doctor PHOTOS --output REPORT [--configuration NAME|DIR]

PHOTOS is what squeezenext.adapt takes, but no address: one folder per class, or folders train,
validation and test with one folder per class each; a zip or tar of these; or a CSV file.
REPORT/index.html shows copies, near duplicates, labels that are probably wrong, and poor
photographs. REPORT/doctor.csv advises an action for each: keep, remove, or move to CLASS. Edit it,
and give it to squeezenext.adapt or datasets.convert with --apply REPORT/doctor.csv. Nothing in
PHOTOS is changed.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from squeezenext.arguments import checked
from squeezenext.cli import Log, check_folder, csv_cell, log, plural, printable, run, say
from squeezenext.convert import review, sources
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.convert.review import Row
from squeezenext.doctor import features, findings, report
from squeezenext.doctor.findings import Diagnosis
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.files import expanded, make_missing
from squeezenext.model import published

REVIEW, FEATURES, GROUPS = "doctor.csv", "features.npz", "groups.csv"


@checked()
def examine(
    photos: str | Path,
    output: str | Path,
    *,
    configuration: str | Path = "squeezenet_v1_1",
    follow_links: bool = False,
    log: Log = lambda text: None,
) -> Diagnosis:
    """Examines photographs and writes index.html, doctor.csv and features.npz.

    Actions that an earlier doctor.csv in `output` has are kept: a person may have chosen them.

    Args:
      photos: a folder with one folder per class, or with folders of splits; a zip or tar of it;
        or a CSV file.
      output: the folder to make.
      configuration: the network whose features are compared: a published model's name or a model
        directory.
      follow_links: also look at photographs and folders that are symbolic links.
      log: receives sentences about the photographs.

    Raises:
      InputError: an argument is wrong, or no photograph can be used.
    """
    photos, output = published.local(photos, "dataset"), expanded(output)
    options = ConvertOptions(sources.photographs_layout(photos), follow_links=follow_links)
    check_folder("output", output, report.PAGE, REVIEW, FEATURES, GROUPS)
    report.check_page(output)
    sources.check_apart(photos, output, options)
    before = _earlier(output / REVIEW)
    with _made(output) as spool, Pool(1) as pool:
        collection = sources.found_in(photos, options, pool, spool)
        for warning in collection.warnings:
            log(f"warning: {warning}")
        diagnosis = diagnose(collection, configuration, output / FEATURES)
        rows = [_as_before(row, before.get(csv_cell(row.file))) for row in diagnosis.rows]
        diagnosis = dataclasses.replace(diagnosis, rows=rows)
        review.write(output / REVIEW, rows)
        report.write(output, photos.resolve().name, diagnosis)
    return diagnosis


@contextlib.contextmanager
def _made(output: Path) -> Iterator[Path]:
    """Makes the folder, removes it again if nothing comes into it, and lends a place in it."""
    made, spool = make_missing(output), output / ".spool"
    try:
        shutil.rmtree(spool, ignore_errors=True)  # a killed call leaves the inflated archive
        try:
            yield spool
        finally:
            shutil.rmtree(spool, ignore_errors=True)
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def groups_once(
    photos: Path, output: Path, configuration: str, follow_links: bool, log: Log
) -> Path:
    """Examines photographs, unless that is done, and returns a doctor.csv that keeps all of them.

    It is `output`/groups.csv: only its groups count. Arguments and errors as for `examine`.
    """
    if not (output / GROUPS).exists():
        diagnosis = examine(
            photos, output, configuration=configuration, follow_links=follow_links, log=log
        )
        for sentence in findings.sentences(diagnosis):
            log(sentence)
        log(f"{output / report.PAGE} shows the photographs; with --apply {output / REVIEW} the "
            "advice is followed.")  # fmt: skip
        kept = [dataclasses.replace(row, action=review.KEEP) for row in diagnosis.rows]
        review.write(output / GROUPS, kept)
    return output / GROUPS


def diagnose(collection: Collection, configuration: str | Path, kept: Path) -> Diagnosis:
    """Returns the findings about a collection, whose features the file `kept` keeps.

    Raises:
      InputError: there is no such network, or no photograph can be read.
    """
    found = features.extract(review.joined(collection.splits), configuration, kept=kept)
    if not len(found.rows):
        raise InputError(
            f"No photograph can be read; {found.faults[0].file} {found.faults[0].reason}."
        )
    return findings.diagnose(collection, found)


def _as_before(row: Row, before: Row | None) -> Row:
    """Returns a row with the action of an earlier one, if that is about the same photograph."""
    same = before and review.is_about(before, int(row.bytes))
    return dataclasses.replace(row, action=before.action) if before and same else row


def _earlier(path: Path) -> dict[str, Row]:
    """Returns the rows of an earlier doctor.csv by the cells of its files."""
    return {row.file: row for row in review.read(path)} if path.exists() else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("output", None, "Folder to write the report to.", **at)
    network = "Network whose features are compared: a published model or a model directory."
    flags.DEFINE_string("configuration", "squeezenet_v1_1", network, **at)
    flags.DEFINE_bool("follow_links", False, "Also look at photographs that are links.", **at)

    def command(values: flags.FlagValues, positional: list[str]) -> None:
        if len(positional) != 1:
            raise InputError("Give one folder of photographs: squeezenext.doctor PHOTOS ...")
        output = Path(values["output"].value)
        diagnosis = examine(
            positional[0],
            output,
            configuration=values["configuration"].value,
            follow_links=values["follow_links"].value,
            log=log,
        )
        say(*findings.sentences(diagnosis))
        log(f"The report is {output / report.PAGE}; what it advises is in {output / REVIEW}.")
        unreadable = [one for one in diagnosis.found if one.kind == "unreadable"]
        if unreadable:
            first = diagnosis.listing.names[unreadable[0].members[0]]
            raise SomeInputsFailed(
                f"{plural(len(unreadable), 'photograph')} cannot be read: {printable(first)} "
                f"{unreadable[0].text}, for one."
            )

    required = ("output",)
    return run(command, values, __doc__, argv, required=required, positional=True, resumes=True)
