"""Puts a model, or its web page, on the Hugging Face Hub, in one commit.

    python -m squeezenext.export.push DIR hf://user/name[@BRANCH] [--private] [--dry_run]
    python -m squeezenext.export.push PAGE hf://user/name --space

DIR is a model directory. Its figures, labels, last checkpoint and exported files are uploaded, with
its card as README.md; photographs never are, nor the pictures of its report, records and logs. PAGE
is a folder that `export --format web` made, which a static Space shows. The repository is made if
there is none. The token is that of `hf auth login` or of the environment variable HF_TOKEN.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext import files
from squeezenext.arguments import checked
from squeezenext.cli import log, plural, run, say, size_text
from squeezenext.errors import InputError
from squeezenext.export import page
from squeezenext.model import card, hub
from squeezenext.model import directory as model_directory

CARD = "README.md"
_EXPORTED = (".tflite", ".sqz", ".onnx", ".json")  # JSON: the scores of a file
# Readers take the last checkpoint that they find.
_REPLACED = (f"{model_directory.CHECKPOINTS}/", f"{model_directory.EXPORTED}/")
_SPACE = """---
title: {title}
sdk: static
app_file: index.html
---

This page names what is in a photograph. It does so in the browser and sends no photograph anywhere.
"""


def contents(directory: Path, place: str, licence: str) -> dict[str, Path | bytes]:
    """Returns the files to upload, by their paths on the Hub; the model card as bytes.

    Raises:
      InputError: it is no model directory, or is not trained yet.
    """
    text = card.render(directory)
    if "\nlicense:" not in text:
        text = text.replace("---\n", f"---\nlicense: {licence}\n", 1)
    names = hub.model_files(x.relative_to(directory).as_posix() for x in directory.rglob("[!.]*"))
    if not any(name.startswith(model_directory.CHECKPOINTS) for name in names):
        raise InputError(f"{directory} holds no checkpoint; train it first.")
    exported = sorted((directory / model_directory.EXPORTED).glob("[!.]*"))
    names += [f"{model_directory.EXPORTED}/{x.name}" for x in exported if x.suffix in _EXPORTED]
    text += f"\nThis copy of the model is `--model_dir {place}`.\n"
    return {CARD: text.encode()} | {name: directory / name for name in names}


def page_contents(folder: Path) -> dict[str, Path | bytes]:
    """Returns the files of a web page.

    Raises:
      InputError: the folder is no web page, or holds a file that is not the page's.
    """
    if not page.is_page(folder):
        raise InputError(
            f"{folder} is not made by `export --format web`; --space uploads such a folder."
        )
    if stranger := page.FORMAT.folder.stranger(folder):
        raise InputError(
            f"{folder / stranger} does not belong to the page, and everything in a Space is "
            "public; move it away."
        )
    title = json.dumps(model_directory.read_json(folder / page.MANIFEST)["model"])
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    readme = {CARD: _SPACE.format(title=title).encode()}
    return readme | {path.relative_to(folder).as_posix(): path for path in found}


@checked()
def push(
    directory: str | Path,
    address: str,
    *,
    private: bool = False,
    space: bool = False,
    licence: str = "other",
    dry_run: bool = False,
) -> str:
    """Uploads a model directory, or a web page, in one commit.

    Checkpoints and exported files of an earlier model, which this one lacks, are removed there.

    Args:
      directory: a model directory; with `space` the folder of a web page.
      address: where to, "hf://user/name" or "hf://user/name@branch".
      private: make a repository that others cannot see; one that is there stays as it is.
      space: upload a web page.
      licence: the Hub's name of a licence, for the card of a model that has none.
      dry_run: only log what would be uploaded.

    Returns:
      The URL of the commit, "" after a dry run.

    Raises:
      InputError: there is no such directory, or no token that may write there.
      RunAgain: the Hub does not answer.
    """
    directory, place = files.expanded(directory), hub.address_of(address)
    if place.path:
        raise InputError(f"{address} names a path; give the repository alone: {place.place}.")
    found = page_contents(directory) if space else contents(directory, place.place, licence)
    sizes = {n: len(x) if isinstance(x, bytes) else x.stat().st_size for n, x in found.items()}
    for name, size in sizes.items():
        log(f"  {size:>12,}  {name}")
    total = f"{plural(len(sizes), 'file')}, {size_text(sum(sizes.values()))}"
    log(f"{total}; no photograph is among them.")
    if dry_run:
        return ""
    if not hub.library().get_token():
        raise InputError(
            "There is no token for the Hub; make one that may write, at "
            "huggingface.co/settings/tokens, and give it: export HF_TOKEN=hf_..."
        )
    with hub.asking(place.place):
        message = f"Upload {directory.resolve().name}"
        return _commit(place, found, message, private=private, space=space)


def _commit(
    place: hub.Repository,
    found: dict[str, Path | bytes],
    message: str,
    *,
    private: bool,
    space: bool,
) -> str:
    """Makes the repository, uploads the files and removes stale ones; returns the commit's URL."""
    repository = {"repo_id": place.repo, "repo_type": "space" if space else "model"}
    library, branch = hub.library(), place.revision or None
    api, sdk = library.HfApi(), "static" if space else None
    api.create_repo(**repository, private=private or None, exist_ok=True, space_sdk=sdk)
    if branch:
        api.create_branch(**repository, branch=branch, exist_ok=True)
    there = api.list_repo_files(**repository, revision=branch)
    stale = [name for name in there if name.startswith(_REPLACED) and name not in found]
    operations = [
        *(library.CommitOperationAdd(name, content) for name, content in found.items()),
        *(library.CommitOperationDelete(name) for name in stale),
    ]
    commit = api.create_commit(
        **repository, operations=operations, commit_message=message, revision=branch
    )
    return commit.commit_url


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_bool("private", False, "Make a repository that others cannot see.", **at)
    flags.DEFINE_bool("space", False, "Upload a web page's folder as a static Space.", **at)
    flags.DEFINE_string("license", "other", "The Hub's name of the model's licence.", **at)
    flags.DEFINE_bool("dry_run", False, "Only show what would be uploaded.", **at)

    def command(values: flags.FlagValues, positional: list[str]) -> None:
        if len(positional) != 2:
            raise InputError("Give a model directory and its address: push mine hf://user/name.")
        options = {name: values[name].value for name in ("private", "space", "dry_run")}
        if url := push(*positional, licence=values["license"].value, **options):
            say(url)

    return run(command, values, __doc__, argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
