"""Models and photographs of the Hugging Face Hub, by address: `hf://user/name[@revision][/path]`.

Photographs are in data sets: `hf://datasets/user/name`. The commit that an address meant when it
was first read is written down in the cache, with size and checksum of each of its files, and stays
what it means, with a network or without; only a branch or tag that is named is asked for anew.
Files are fetched when they are needed, and compared each time.
"""

import contextlib
import functools
import hashlib
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import filelock

from squeezenext import files, progress
from squeezenext.cli import log, plural, size_text
from squeezenext.errors import InputError, RunAgain, needs
from squeezenext.images import decoding
from squeezenext.model import directory as model_directory

Listing = dict[str, tuple[int, str]]  # size in bytes, and SHA-256 or git's SHA-1, by path
_ADDRESS = re.compile(r"hf:/{1,2}((datasets/)?([\w.-]+/[\w.-]+)(?:@([^/]+))?)(?:/(.*))?", re.DOTALL)
_LATER = (408, 425, 429)  # status codes of a server that is busy
_SHOWN = 5  # names in a message
_THREADS = 8  # files that are asked for at a time
_TO_RUN = {
    model_directory.CONFIG, model_directory.LABELS, model_directory.FINAL, model_directory.LITERT,
    model_directory.CALIBRATION, model_directory.KNOWN,
}  # fmt: skip
_FIGURES = {model_directory.SCORES, model_directory.STATS, model_directory.HISTORY}


class Repository(NamedTuple):
    """A repository of the Hub, or a part of it, by the parts of its address."""

    place: str  # all but the path
    kind: str  # "model" or "dataset"
    repo: str  # user and name, with a slash
    revision: str  # branch, tag or commit; "" is the commit of main when it was first read
    path: str  # a file or folder, or ""


def address_of(text: str | Path, kind: str = "model") -> Repository:
    """Returns the parts of an address; raises InputError if it is not that of a `kind`."""
    found = _ADDRESS.fullmatch(str(text))
    if not found or kind != ("dataset" if found[2] else "model") or found[3].startswith("spaces/"):
        example = "hf://user/name" if kind == "model" else "hf://datasets/user/name"
        raise InputError(f"{text} is no address of a {kind} of the Hub; give one as {example}.")
    revision = urllib.parse.unquote(found[4] or "")
    return Repository(f"hf://{found[1]}", kind, found[3], revision, (found[5] or "").strip("/"))


def fetched(name: str | Path, cache: Path, kind: str = "model", run: bool = False) -> Path:
    """Returns the path on this machine of a model, or of photographs, of the Hub.

    Args:
      name: its address. Without a path in it, it is a model directory, or the only `.sqz` or
        `.tflite` file; or all photographs with their CSV files, or the only zip or tar.
      cache: folder of what was fetched.
      kind: "model", or "dataset" for photographs.
      run: of a model directory that has its LiteRT file, fetch no checkpoint.

    Raises:
      InputError: there is no such thing, or a token is needed.
      RunAgain: the Hub does not answer, or a file was damaged on its way.
    """
    address = address_of(name, kind)
    cache.mkdir(parents=True, exist_ok=True)
    note = f"{kind}s/{address.repo}@{address.revision or 'main'}.json"
    note = cache / urllib.parse.quote(note, safe="@")
    with filelock.FileLock(note.with_suffix(".lock")):
        kept = model_directory.read_json(note)
        kept = kept if {"commit", "files"} <= kept.keys() else {}
        pinned = kept and address.revision in ("", kept["commit"])
        snapshot = kept if pinned else _snapshot(address, kept)
        commit, listing = snapshot["commit"], snapshot["files"]
        wanted, found = _wanted(address, listing, run)
        folder = cache / f"{address.repo.replace('/', '--')}@{commit[:12]}"
        _fetch(address, commit, folder, {file: listing[file] for file in wanted})
        if snapshot is not kept:
            files.write_json(note, snapshot)
    return folder / found


def _snapshot(address: Repository, kept: dict) -> dict:
    """Returns an address's present commit and files; `kept` if the Hub does not answer."""
    try:
        with asking(address.place):
            api, kind = library().HfApi(), address.kind
            revision = address.revision or "main"
            commit = api.repo_info(address.repo, revision=revision, repo_type=kind).sha
            tree = api.list_repo_tree(address.repo, recursive=True, revision=commit, repo_type=kind)
            listing = {
                file.path: (file.size, file.lfs.sha256 if file.lfs else file.blob_id)
                for file in tree
                if hasattr(file, "blob_id") and not files.leads_out(file.path)
            }
    except RunAgain as error:
        if not kept:
            raise
        log(f"warning: {error} Commit {kept['commit']}, which was fetched before, is used.")
        return kept
    return {"commit": commit, "files": listing}


def model_files(names: Iterable[str], run: bool = False) -> list[str]:
    """Returns which files of a model directory are needed, by their paths in it.

    These are its figures and last checkpoint; or, to `run` it, its LiteRT file without these.
    """
    names = sorted(names)
    if run and model_directory.LITERT in names:
        return [name for name in names if name in _TO_RUN]
    saved = [name for name in names if name.startswith(f"{model_directory.CHECKPOINTS}/step-")]
    last = saved[-1].rpartition("/")[0] + "/" if saved else "/"
    return [name for name in names if name in _TO_RUN | _FIGURES or name.startswith(last)]


def _wanted(address: Repository, listing: Listing, run: bool) -> tuple[list[str], str]:
    """Returns the files to fetch, and the path of the file or folder that is named."""
    path, prefix = address.path, f"{address.path}/" if address.path else ""
    inside = [name for name in listing if name == path or name.startswith(prefix)]
    if address.kind == "dataset":
        what, single = "photographs, nor a zip or tar of them", (".zip", ".tar", ".tar.gz", ".tgz")
        endings = (*decoding.ENDINGS, ".csv")
        if found := [name for name in inside if name.lower().endswith(endings)]:
            return found, path
    else:
        what, single = "model directory, nor a .sqz or exported .tflite file", (".sqz", ".tflite")
        if prefix + model_directory.CONFIG in inside:
            names = model_files((name.removeprefix(prefix) for name in inside), run)
            return [prefix + name for name in names], path
    found = [name for name in inside if name.lower().endswith(single)]
    if not found:
        raise InputError(f"{address.place} holds no {what}{f' in {path}' if path else ''}.")
    if len(found) > 1:
        listed = ", ".join(found[:_SHOWN])
        example = f"{address.place}/{found[0]}"
        raise InputError(f"{address.place} holds {listed}; name one, such as {example}.")
    return found, found[0]


def _fetch(address: Repository, commit: str, folder: Path, wanted: Listing) -> None:
    """Fetches the files that are absent or damaged."""
    missing = [name for name in wanted if not _is_whole(folder / name, *wanted[name])]
    if not missing:
        return
    for name in missing:
        (folder / name).unlink(missing_ok=True)  # else the library would keep it
    size = sum(wanted[name][0] for name in missing)
    what, place = plural(len(missing), "file"), address.place
    log(f"Fetching {what}, {size_text(size)}, of {place}, commit {commit}.")
    bar = progress.throughput("Fetching", len(missing), size, unit="files")
    with asking(place), bar as advance, futures.ThreadPoolExecutor(_THREADS) as pool:
        get = functools.partial(
            library().hf_hub_download,
            address.repo,
            repo_type=address.kind,
            revision=commit,
            local_dir=folder,
        )
        try:
            for name, path in zip(missing, pool.map(get, missing), strict=True):
                if not _is_whole(Path(path), *wanted[name]):
                    raise RunAgain(
                        f"{name} of {place} was damaged on its way: its size or checksum is not "
                        "the one that the Hub lists. Run the same command again."
                    )
                advance(1, wanted[name][0])
        finally:
            pool.shutdown(cancel_futures=True)


def _is_whole(path: Path, size: int, expected: str) -> bool:
    """Returns whether a file is there with the expected size and checksum."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    git = len(expected) == 40  # of small files the Hub knows git's checksum alone
    begun = hashlib.sha1(b"blob %d\0" % size) if git else hashlib.sha256()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: begun).hexdigest() == expected


def library():
    """Returns huggingface_hub, which prints nothing; raises InputError if it is not installed."""
    with needs("hub"):
        import huggingface_hub.errors
        import huggingface_hub.utils
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()  # it warns of each attempt
    return huggingface_hub


@contextlib.contextmanager
def asking(place: str) -> Iterator[None]:
    """Turns the errors of the Hub into InputError or RunAgain.

    Raises:
      InputError: there is no such place, or a token is needed.
      RunAgain: the Hub does not answer.
    """
    errors = library().errors
    named = f"{place} ({library().HfApi().endpoint})"
    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(f"{place} is no name of the Hub; give one as hf://user/name.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status in _LATER:
            raise RunAgain(f"{named} answers {status}; run the same command later.") from error
        raise InputError(
            f"{named} does not exist, or you have no access (HTTP {status}); correct the name, or "
            "give a token with access: export HF_TOKEN=hf_... (huggingface.co/settings/tokens)."
        ) from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RunAgain(
            f"{named} does not answer ({reason}); run the same command again."
        ) from error
