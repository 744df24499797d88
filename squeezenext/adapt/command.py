"""Makes a classifier, ready to ship, of a folder of photographs.

    python -m squeezenext.adapt PHOTOS --model_dir DIR [--minutes 15] [--configuration NAME|DIR]

PHOTOS holds one folder per class, or folders train and validation (and test) with one folder per
class each; or it is a zip or tar of that, its https address, or a CSV file. A folder none, other or
background makes no class, but teaches what is unknown. --dry_run shows what is found. DIR will hold
the records, the network fine-tuned from published weights, model.tflite, exported/, report/ and
MODEL_CARD.md. The number of epochs and the size of the images follow from the machine's speed and
the time; they are logged and kept in adapt.json. After an interruption the same command continues.
When it has finished, and PHOTOS holds other photographs, it goes on from the model. In Python:

    from squeezenext import adapt
    adapted = adapt.adapt("photos", "model", minutes=15)
    print(adapted.scores)
"""

import contextlib
import math
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags

from squeezenext import files, tf_import
from squeezenext.adapt import course as courses
from squeezenext.adapt import photographs, probe, selection, shipping
from squeezenext.adapt import plan as planning
from squeezenext.adapt.course import Course
from squeezenext.adapt.shipping import Adapted
from squeezenext.arguments import checked, is_url, refuse_remote
from squeezenext.cli import log, plural, require_flags, run, say
from squeezenext.config.zoo import PUBLISHED
from squeezenext.convert import estimate, sources
from squeezenext.convert.places import hold_photographs
from squeezenext.errors import InputError, NotFinite, RunAgain, SomeInputsFailed
from squeezenext.metrics import wilson
from squeezenext.model import card, published
from squeezenext.model import directory as model_directory
from squeezenext.records import dataset, stores
from squeezenext.records.dataset import ANEW, Dataset
from squeezenext.train import command
from squeezenext.train.options import Options

LEAST_BYTES = 1_000  # header and biases of a .sqz file take more
LOCK = ".adapt.lock"


@checked(max_bytes=0, seed=0)
def adapt(
    photos: str | Path,
    model_dir: str | Path,
    *,
    configuration: str | Path = photographs.DEFAULT,
    minutes: float = 15.0,
    max_bytes: int = 250_000,
    seed: int = 0,
    deterministic: bool = False,
    follow_links: bool = False,
    apply: str | Path | None = None,
) -> Adapted:
    """Makes a classifier of a folder of photographs.

    Args:
      photos: a folder of class folders or of splits, a zip or tar, or a CSV of files or addresses.
      model_dir: the folder to make; an interrupted run in it is continued. With the default
        `configuration`, training goes on from a finished model, which is moved to `before` in it.
      configuration: the model whose weights training starts from: a published model, "auto" for
        the one of `probe.CANDIDATES` that suits the photographs, or a model directory of yours.
      minutes: minutes for everything, about, also of a run that is interrupted and continued.
      max_bytes: budget of the .sqz file; 0 makes none.
      seed: seed of the split, the new classifier's weights, the order and the augmentation.
      deterministic: gives the same bits for the same finished adapt.json; slower.
      follow_links: also take photographs and folders that are symbolic links.
      apply: a doctor.csv, whose actions are obeyed and whose groups stay in one split.

    Raises:
      InputError: an argument is wrong, or the photographs cannot be used.
      RunAgain: interrupted and saved, the network is down, or another process works in `model_dir`.
    """
    model_dir = files.expanded(model_dir)
    place = sources.downloaded(str(photos), model_dir / model_directory.DOWNLOADED)
    started, photos = time.monotonic(), published.local(place, "dataset")
    networks = _networks(str(configuration), model_dir)
    for network in networks:
        _check(photos, model_dir, network, minutes, max_bytes)
        if not photographs.is_finished(model_dir):
            published.resolve(network)  # downloads the weights before any work is done
    Options(model_dir=model_dir, seed=seed)  # refuses too large a seed
    tf_import.check_installed()
    with _in_adapts_words(model_dir), command.locked(model_dir, LOCK):
        networks, faults = photographs.record(
            photos, model_dir, networks, seed=seed, follow_links=follow_links, apply=apply
        )
        found = _found(records := model_dir / model_directory.RECORDS)
        if deterministic:  # TensorFlow refuses it once a step has been timed
            _make_deterministic()
        network = _first_answer(model_dir, networks, minutes, found, started)
        course = courses.begun(model_dir, found, network, minutes, max_bytes, started)
        sha256 = _train(course, model_dir, found, seed, deterministic)
        shipping.fit_known_once(model_dir, found, log)
        made = shipping.export_once(model_dir, records, sha256, log)
        if max_bytes:
            epochs = course.compression_epochs(deterministic)
            made += shipping.compress_once(model_dir, records, sha256, max_bytes, epochs, log)
        log(f"Evaluating on the {shipping.held_out(found)} images.")
        results = shipping.score(model_dir, records, found, made.files, photos)
    seconds = time.monotonic() - started
    return shipping.adapted(model_dir, course.plan, found, results, made, faults, seconds)


def _networks(configuration: str, model_dir: Path | None = None) -> tuple[str, ...]:
    """Returns the models to choose from: published names, or the path of a model directory.

    A model that was being set aside in `model_dir` is so afterwards.
    """
    if model_dir and model_directory.is_moving(model_dir):
        with command.locked(model_dir, LOCK):
            model_directory.set_aside(model_dir)
    if model_dir and (aside := photographs.start(model_dir, (configuration,))) != (configuration,):
        return aside
    if configuration == probe.AUTO:
        return probe.CANDIDATES
    known = configuration in PUBLISHED
    return (configuration if known else os.path.realpath(published.local(configuration)),)


# Advice of the commands that adapt runs, which names flags of theirs: what it is for adapt.
_ADVICE = (
    (r"choose another --output, or give --overwrite( to lose it)?", "choose another --model_dir"),
    (r"choose an --output that can be", "choose a --model_dir that can be"),
    (r"--output", "--model_dir"),
    (r"--source", "PHOTOS"),
    (r", with fewer --workers if it happens again", ""),
    (re.escape(ANEW), "remove {records} and run the same command again"),
    (r"convert data with one", "remove {records} and run the same command again"),
    (r"give --fine_tune_from .* and another --model_dir", "choose another --model_dir"),
    (r"run again with --micro_batch_size \d+", "end other programs that use it, and run again"),
    (r"What can be done: .*", "What can be done: the same command with another --model_dir and "
     "--seed, without the photographs that are at fault."),
)  # fmt: skip
_FLAGS = ("model_dir", "configuration", "minutes", "max_bytes", "seed", "deterministic",
          "follow_links", "apply")  # fmt: skip


@contextlib.contextmanager
def _in_adapts_words(model_dir: Path) -> Iterator[None]:
    """Words the errors of the commands that adapt runs as its own: it has other flags."""
    try:
        yield
    except (InputError, NotFinite, RunAgain) as error:
        text = str(error)
        for pattern, own in _ADVICE:
            text = re.sub(pattern, _filled(own, model_dir / model_directory.RECORDS), text)
        flags_in = re.findall(r"(?<![^\s(])--([a-z]\w+)", text)  # not those in a file's name
        strange = sorted(set(flags_in) - {*_FLAGS, "debug"})
        if strange:
            advice = rf"; [^;]*(?<![^\s(])--({'|'.join(strange)})\b.*"  # for others
            text = re.sub(advice, ".", text)
            text += " Give another --model_dir, or other photographs, to begin anew."
        raise type(error)(text) from error


def _filled(own: str, records: Path) -> Callable[[re.Match[str]], str]:
    return lambda match: own.format(*match.groups(), records=records)


def _found(records: Path) -> Dataset:
    found = dataset.find_dataset(records, None, None)
    dataset.check_split(found, "train")
    dataset.check_split(found, "validation")
    return found


def _make_deterministic() -> None:
    tf_import.without_onednn()
    tf_import.import_tensorflow()
    from squeezenext.train import devices

    devices.make_deterministic()


def _first_answer(
    model_dir: Path, networks: tuple[str, ...], minutes: float, found: Dataset, started: float
) -> str:
    """Makes the first answer, unless it is there; returns the network that it is made of."""
    preview = model_dir / model_directory.PREVIEW
    before = courses.kept(model_dir / model_directory.ADAPT, networks, minutes)
    network = before.configuration if before else probe.choose(preview, networks, found)
    top1 = probe.make(preview, network, found)
    if top1 is not None:
        tested = plural(min(probe.MOST, found.splits["validation"].examples), "validation image")
        log(
            f"A first answer after {time.monotonic() - started:.0f} s: {top1:.1%} of {tested} "
            f"right (top-1). It can be used: python -m squeezenext.predict PHOTO --model_dir "
            f"{shlex.quote(str(preview))}"
        )
    return network


def _train(course: Course, model_dir: Path, found: Dataset, seed: int, deterministic: bool) -> str:
    """Fine-tunes the first answer, resuming if possible; returns the hash of the weights kept."""
    if (sha256 := selection.done(model_dir)) is not None:
        return sha256
    plan, preview = course.plan, model_dir / model_directory.PREVIEW
    options = Options(
        model_dir=model_dir,
        data_dir=model_dir / model_directory.RECORDS,
        fine_tune_from=preview,
        devices=1,  # whose speed was measured; for several, batches of 32 are too small
        seed=seed,
        deterministic=deterministic,
        evaluate_every_epochs=plan.evaluate_every_epochs,
    )
    log(
        "Training begins; the first step may take a minute. All figures are in "
        f"{model_dir / model_directory.LOG}."
    )
    command.train(plan.config(), options, course)
    resizable = plan.configuration in PUBLISHED
    kept = selection.select(model_dir, preview, found.splits["validation"], resizable=resizable)
    for sentence in kept.sentences():
        log(sentence)
    return model_directory.read_json(model_dir / model_directory.FINAL)["weights_sha256"]


def _check(
    photos: Path, model_dir: Path, configuration: str, minutes: float, max_bytes: int = 0
) -> None:
    if configuration not in PUBLISHED and not Path(configuration).is_dir():
        raise InputError(
            f"--configuration {Path(configuration).name}: there are no published weights to start "
            f"from; there are for {', '.join(PUBLISHED)}; or give auto, or your model directory."
        )
    real = Path(os.path.realpath(model_dir))  # Path.resolve fails for a link to itself
    if Path(configuration) == real:
        raise InputError(f"--model_dir {model_dir}: --configuration is that, too; give another.")
    planning.base(configuration)  # else it is no model directory
    if not (minutes > 0 and math.isfinite(minutes)):
        raise InputError(f"--minutes {minutes:g}: must be positive and finite, such as 15.")
    if 0 < max_bytes < LEAST_BYTES:
        raise InputError(
            f"--max_bytes {max_bytes} is too little for any .sqz file; give 250000, or 0 for none."
        )
    if model_directory.is_one(photos):
        raise InputError(f"{photos} is a model directory; give the photographs, then --model_dir.")
    sources.photographs_layout(photos)
    begun = (model_dir / model_directory.ADAPT).is_file()
    begun = begun or model_directory.is_one(model_dir / model_directory.ASIDE)
    if not begun and model_directory.is_one(model_dir):
        raise InputError(
            f"--model_dir {model_dir} holds a model that adapt did not make; choose another (with "
            f"--configuration {model_dir} it starts from that model's weights)."
        )
    if not begun and hold_photographs(model_dir, model_directory.FOLDERS):
        raise InputError(
            f"--model_dir {model_dir} holds photographs, which are given first: "
            "squeezenext.adapt PHOTOS --model_dir DIR."
        )
    if not begun and (others := model_directory.others(model_dir)):
        raise InputError(
            f"--model_dir {model_dir} holds other files, such as {others[0]}; name a new folder."
        )
    if real.is_relative_to(photos.resolve()):
        raise InputError(
            f"--model_dir {model_dir} lies in {photos}, where it would be taken for a class; "
            "choose another place."
        )


def _start_shown(configuration: str, model_dir: str | None) -> str:
    """Returns the model that training would start from, for --dry_run."""
    if model_dir and configuration == photographs.DEFAULT:
        directory = files.expanded(model_dir)
        if photographs.is_finished(directory):
            return str(directory)
    return _networks(configuration)[0]


def summary_lines(adapted: Adapted) -> list[str]:
    """Returns the lines for a person: each file's size and score, and the command to try it."""
    lines = [f"On {plural(adapted.images, f'{adapted.split} image')}:"]
    for name, top1 in adapted.scores.items():
        low, high = wilson(top1 * adapted.images, adapted.images)
        path = adapted.files.get(name)
        what = f"{path}, {path.stat().st_size / 1e6:.2f} MB" if path else "the network"
        even = f", balanced {adapted.balanced[name]:.4f}" if name in adapted.balanced else ""
        lines.append(f"  top-1 {top1:.4f} ({low:.4f} to {high:.4f}){even}  {what}")
    folder = shlex.quote(str(adapted.model_dir))
    return [
        *lines,
        *adapted.remarks,
        f"{adapted.report} shows the mistakes, {adapted.model_dir / card.FILE} sums it up.",
        f"For a phone or another program take a file above: {adapted.model_dir}/"
        f"{model_directory.LITERT} is for this program alone.",
        f"It took {adapted.seconds / 60:.1f} minutes.",
        f"Try it: python -m squeezenext.predict PHOTO --model_dir {folder}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Folder to make, or to continue in.", **at)
    names = f"Model to start from: {', '.join(PUBLISHED)}, auto, or a model directory of yours."
    flags.DEFINE_string("configuration", photographs.DEFAULT, names, **at)
    flags.DEFINE_float("minutes", 15.0, "Minutes for everything, about.", **at)
    size = "Upper bound on the size of the .sqz file, in bytes; 0 makes none."
    flags.DEFINE_integer("max_bytes", 250_000, size, 0, **at)
    seed = "Seed of the split, the new weights, the order and the augmentation."
    flags.DEFINE_integer("seed", 0, seed, 0, **at)
    same = "Give the same bits for the same adapt.json; slower."
    flags.DEFINE_bool("deterministic", False, same, **at)
    flags.DEFINE_bool("follow_links", False, "Also take photographs that are links.", **at)
    flags.DEFINE_string("apply", None, "The doctor's review, doctor.csv, to obey.", **at)
    look = "Only print what was found; downloads are kept in --model_dir if that is given."
    flags.DEFINE_bool("dry_run", False, look, **at)

    def command(values: flags.FlagValues, positional: list[str]) -> None:
        if len(positional) != 1:
            raise InputError("Give one folder, archive or address: squeezenext.adapt PHOTOS ...")
        if values["dry_run"].value:
            with tempfile.TemporaryDirectory() as empty:
                kept = files.expanded(values["model_dir"].value or empty)
                here = sources.downloaded(positional[0], kept / model_directory.DOWNLOADED)
                photos = published.local(here, "dataset")
                names = ("seed", "follow_links", "apply")
                options = photographs.options(photos, *(values[name].value for name in names))
                start = _start_shown(values["configuration"].value, values["model_dir"].value)
                options = photographs.going_on(options, Path(empty), start)
                say(*estimate.look(photos, options))
            return
        require_flags(values, ("model_dir",))
        refuse_remote("--model_dir", values["model_dir"].value)
        place = positional[0]
        if is_url(place) or place.startswith(stores.SCHEMES):  # which `adapt` does not take
            folder = files.expanded(values["model_dir"].value) / model_directory.DOWNLOADED
            place = str(sources.downloaded(place, folder))
        adapted = adapt(place, **{name: values[name].value for name in _FLAGS})
        say(*summary_lines(adapted))
        if adapted.faults:
            raise SomeInputsFailed(" ".join(adapted.faults))

    places = ("argument",)
    return run(command, values, __doc__, argv, positional=True, resumes=True, addresses=places)
