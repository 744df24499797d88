"""The temperature that a model directory keeps, and which images it was fitted to."""

import hashlib
import json
from pathlib import Path

from squeezenext.errors import InputError
from squeezenext.files import write_text
from squeezenext.model import card, loading
from squeezenext.records.dataset import Dataset
from squeezenext.records.manifest import Split


def check_own(model_dir: str | Path) -> None:
    """Refuses to calibrate what is not the user's own model directory.

    Raises:
      InputError: it is a file, or a published model.
    """
    if Path(model_dir).is_file():
        raise InputError(f"--fit_temperature needs a model directory, not {model_dir}.")
    if not Path(model_dir).is_dir():
        raise InputError(
            f"--fit_temperature: {model_dir} is a published model, which every command shares; "
            "copy its folder, or train your own."
        )


def store(directory: Path, temperature: float, found: Dataset, split: str) -> None:
    """Keeps a model directory's temperature and what it was fitted to; its card tells of it."""
    document = {
        "temperature": temperature,
        "fitted_to": f"{found.source} {split}",
        "examples": found.splits[split].examples,
        "shards_sha256": shards_sha256(found.splits[split]),
    }
    text = json.dumps(document, indent=1) + "\n"
    write_text(directory / loading.CALIBRATION, text)
    card.write(directory)


def shards_sha256(split: Split) -> str:
    """Tells one split from another, wherever its folder lies."""
    shards = [(shard.path.name, shard.bytes, shard.sha256) for shard in split.shards]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()
