"""Turns archives or folders of images into a data directory of TFRecord shards.

  python -m datasets.convert --layout imagenet --source DIR --output DIR/tf-records
  python -m datasets.convert --layout folder --source PHOTOS --output DIR

The output is a folder or an address (s3://, gs://), and complete when its manifest.json exists.
After an interruption, the same command goes on at the next shard; the bytes are those of an
uninterrupted run.
"""

import contextlib
import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext import cli, progress
from squeezenext.arguments import checked
from squeezenext.convert import commit, estimate, plan, shards, sources, tfrecords
from squeezenext.convert import output as outputs
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import LAYOUTS, RUNNERS, ConvertOptions
from squeezenext.convert.pool import Pool, behind
from squeezenext.convert.uploads import Destination
from squeezenext.errors import InputError, RunAgain, SomeInputsFailed
from squeezenext.files import expanded
from squeezenext.predict.parts import run_in_beam
from squeezenext.records import dataset, stores

_MAX_LOGGED = 20  # rejected files


@checked("output")
def convert(
    source: str | Path,
    output: str | stores.AnyPath,
    options: ConvertOptions,
    log: cli.Log = lambda text: None,
    table: bool = False,
) -> dataset.Manifest:
    """Converts `source`, a folder, an archive or a CSV file, into the data directory `output`.

    `log` receives a sentence if nothing is to be done, else, with `table`, what was found.

    Returns:
      The manifest. Images that could not be used are in `raw["rejected"]`.

    Raises:
      InputError: the source is wrong, or `output` holds other data.
      RunAgain: another process writes `output`, the disk is full, or a store does not answer.
    """
    source, target = expanded(source), Destination(stores.place(output))
    place, output = target.place, target.folder
    if not source.exists():
        raise InputError(sources.no_folder(source))
    sources.check_apart(source, output, options)
    workers = options.workers or cli.cores()
    with plan.lock_directory(output), commit.swept(output), Pool(workers) as pool:
        collection = sources.collect(source, options, pool, output / commit.SPOOL)
        identity = outputs.identity(collection, options)
        if not options.overwrite and (done := outputs.finished(place, identity)) is not None:
            verify = cli.module_command("datasets.verify")
            log(f"{place} was finished already; `{verify}` reads its bytes.")
            made = (place / dataset.MANIFEST).stat().st_mtime_ns
            if path := collection.watch.changed_since(made):
                log(
                    f"warning: {path} is newer than {place}, which may hold it as it was; to take "
                    "the present files, choose another --output, or give --overwrite."
                )
            target.clean()  # a run that was killed before its own `clean` left files
            return done
        for line in estimate.found_lines(collection) if table else ():
            log(line)
        commit.check_room(output, estimate.remaining_bytes(collection, output, options))
        planned = _begin(collection, source, output, options, identity)
        target.claim(planned.files, options.overwrite)
        if options.layout == "tfrecord":
            collection, written = tfrecords.adopt_all(
                collection, source, output, pool, options.show_progress
            )
        else:
            written = _write_shards(collection, target, options, pool, planned.key)
        if collection.watch.changed():
            raise RunAgain(f"{source} changed while it was read; run the same command again.")
        return outputs.finish(collection, target, options, written, planned)


def _begin(
    collection: Collection, source: Path, output: Path, options: ConvertOptions, identity: str
) -> plan.ConversionPlan:
    """Makes the work folder and removes what will not stay."""
    in_place = options.layout == "tfrecord" and output.samefile(source)
    if options.layout == "tfrecord" and not in_place:
        tfrecords.check_links(collection, output)
    kept = plan.source_files(collection, output) if in_place else frozenset()
    files = plan.planned_files(collection, options, kept)
    planned = plan.ConversionPlan(identity, outputs.fingerprint(collection, options), files)
    if options.overwrite:
        plan.clear(output, planned, kept)
    plan.begin(output, planned, kept)
    return planned


def _write_shards(
    collection: Collection, target: Destination, options: ConvertOptions, pool: Pool, plan_key: str
) -> dict[str, list[shards.Written]]:
    names, jobs = zip(*shards.shard_jobs(collection, target.folder, options, plan_key), strict=True)
    images = sum(len(job.listing.names) for job in jobs)
    size = sum(job.listing.bytes for job in jobs)
    written: dict[str, list[shards.Written]] = {name: [] for name in collection.splits}
    if options.runner == "beam":  # the code below then only checks what the workers wrote
        run_in_beam(plan.write_planned, jobs, options.beam_options)
    with progress.throughput("Converting", images, size, options.show_progress) as advance:
        with contextlib.closing(behind(target.publish, pool.run(shards.draft, jobs))) as results:
            for name, job, result in zip(names, jobs, results, strict=True):
                written[name].append(result)
                advance(len(job.listing.names), job.listing.bytes)
    return written


def log_outcome(manifest: dataset.Manifest) -> None:
    """Logs what was converted; no file's name can forge a line of it.

    Raises:
      SomeInputsFailed: images were rejected; all are in the manifest, the first ones in the log.
    """
    counts = ", ".join(f"{split.examples} {name}" for name, split in manifest.splits.items())
    repairs, rejected = manifest.raw["repairs"], manifest.raw["rejected"]
    lines = [
        f"{manifest.directory}: {counts} images of {cli.plural(len(manifest.classes), 'class')}, "
        f"{len(repairs)} re-encoded, {len(rejected)} rejected."
    ]
    if twins := manifest.raw.get("duplicates"):
        lines.append(
            f"warning: {cli.plural(len(twins), 'image lies', 'images lie')} in two splits, "
            f"{twins[0]['file']} = "
            f'{twins[0]["same_as"]} for one; the manifest lists them under "duplicates".'
        )
    lines += manifest.raw.get("notes", ())
    lines += [f"warning: {warning}" for warning in manifest.raw.get("warnings", ())]
    lines += [f"rejected: {row['file']} {row['reason']}" for row in rejected[:_MAX_LOGGED]]
    for line in lines:
        cli.log(cli.printable(line))
    if rejected:
        count = len(rejected) + manifest.raw.get("omitted", {}).get("rejected", 0)
        raise SomeInputsFailed(
            f"{cli.plural(count, 'file was', 'files were')} rejected, all others are converted; "
            f'{manifest.directory / dataset.MANIFEST} lists them under "rejected".'
        )


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text = {"flag_values": values}
    flags.DEFINE_enum("layout", None, LAYOUTS, "Layout of the source.", **text)
    flags.DEFINE_string(
        "source",
        None,
        "Folder of the archives, or of the images; or a zip, tar or CSV file.",
        **text,
    )
    flags.DEFINE_string("output", None, "Data directory to write; s3:// and gs://, too.", **text)
    flags.DEFINE_integer("seed", 0, "Seed of the order of examples and of the split.", **text)
    flags.DEFINE_bool("partial", False, "Accept a part of ImageNet.", **text)
    validation = "Share of each class for validation, if the source has no such split."
    flags.DEFINE_float("validation_fraction", 0.2, validation, **text)
    shards_text = "Number of shards; default 1024, 128 for ImageNet, else one per 100 MB."
    for name in ("train_shards", "validation_shards", "test_shards"):
        flags.DEFINE_integer(name, None, shards_text, **text)
    flags.DEFINE_bool("verify_images", False, "Decode every image.", **text)
    follow = "Follow symbolic links instead of rejecting them."
    flags.DEFINE_bool("follow_links", False, follow, **text)
    flags.DEFINE_integer("max_side", None, "Re-encode images with a longer side than this.", **text)
    quality = "JPEG quality of images that --max_side re-encodes."
    flags.DEFINE_integer("quality", 90, quality, **text)
    pattern = r"Regular expression of class folders; its group is the class: '\d+\.(.+)'."
    flags.DEFINE_string("class_pattern", None, pattern, **text)
    held = "Model directory whose classes data without training images have."
    flags.DEFINE_string("labels_of", None, held, **text)
    review = "The doctor's review of these photographs, doctor.csv, to be obeyed."
    flags.DEFINE_string("apply", None, review, **text)
    flags.DEFINE_bool("clutter", False, "Keep Caltech256's class 257.clutter.", **text)
    flags.DEFINE_bool("checksum", False, "Compare the ImageNet archives' checksums.", **text)
    archive = "Training archive; - (standard input) or a pipe, too."
    flags.DEFINE_string("train_tar", None, archive, **text)
    once = "Read the training archive once, from front to back."
    flags.DEFINE_bool("sequential", False, once, **text)
    flags.DEFINE_enum("runner", "local", RUNNERS, "Who writes the shards.", **text)
    flags.DEFINE_multi_string("beam_options", [], "Beam's options, such as --streaming.", **text)
    flags.DEFINE_bool("dry_run", False, "Only print what would be done.", **text)
    flags.DEFINE_bool("overwrite", False, "Replace an existing data set.", **text)
    flags.DEFINE_integer("workers", None, "Number of processes; default one a CPU.", **text)
    return values


def _command(values: flags.FlagValues, positional: list[str]) -> None:
    if positional:
        raise InputError(f"{positional[0]!r} is no flag; did you mean --source {positional[0]}?")
    cli.require_flags(values, ("layout", "source", "output"))
    fields = (field.name for field in dataclasses.fields(ConvertOptions))
    options = ConvertOptions(**{name: values[name].value for name in fields if name in values})
    place, output = values["source"].value, stores.place(values["output"].value)
    folder = stores.copies_folder() / "sources"
    outer, inner = sorted((f"{place}/", f"{output}/"))
    stored = place.startswith(stores.SCHEMES)
    if stored and inner.startswith(outer):
        raise InputError(f"--output {output} and --source {place} overlap; choose another output.")
    source = sources.downloaded(place, folder) if stored else Path(place)
    if values["dry_run"].value:
        estimated = estimate.estimate_conversion(source, Destination(output).folder, options)
        cli.say(*estimated.lines(options.workers or cli.cores()))
    else:
        log_outcome(convert(source, output, options, cli.log))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    if argv is None:  # the program itself, not a function of another one
        signal.signal(signal.SIGTERM, cli.interrupt)  # as batch systems send it
    at = ("source", "output")
    return cli.run(_command, _flags(), __doc__, argv, positional=True, resumes=True, addresses=at)
