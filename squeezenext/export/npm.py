"""Fetches packages of the npm registry with the `npm` command, checks and caches them.

A folder named by the environment variable SQUEEZENEXT_NPM is searched first for a file of the
package's checksum, whatever its name, so that no network is needed.
"""

import base64
import dataclasses
import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from squeezenext import files
from squeezenext.errors import InputError
from squeezenext.model import published


@dataclasses.dataclass(frozen=True)
class Package:
    """A package of one version; `sha512` is in base64, as in npm's `integrity` field."""

    name: str
    version: str
    sha512: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def package_files(package: Package, names: dict[str, str]) -> dict[str, bytes]:
    """Returns the contents of files of a package, by new names.

    Args:
      package: the package.
      names: new name of each file, by its path in the package.

    Raises:
      InputError: the package cannot be fetched.
    """
    found = {}
    with tarfile.open(fileobj=io.BytesIO(_content(package)), mode="r:gz") as archive:
        for path, name in names.items():
            found[name] = archive.extractfile(f"package/{path}").read()
    return found


def _content(package: Package) -> bytes:
    folder = os.environ.get("SQUEEZENEXT_NPM")
    for path in sorted(Path(folder).glob("*.tgz")) if folder else []:
        content = path.read_bytes()
        if _fits(content, package):
            return content
    path = (
        published.cache().parent
        / "npm"
        / f"{hashlib.sha256(str(package).encode()).hexdigest()}.tgz"
    )
    if path.is_file() and _fits(content := path.read_bytes(), package):
        return content
    content = _pack(package)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, content)
    return content


def _fits(content: bytes, package: Package) -> bool:
    return base64.b64encode(hashlib.sha512(content).digest()).decode() == package.sha512


def _pack(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                ["npm", "pack", str(package), "--silent"],
                cwd=folder, check=True, capture_output=True, timeout=300,
            )  # fmt: skip
            (path,) = Path(folder).glob("*.tgz")
            content = path.read_bytes()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise InputError(
                f"{package} cannot be fetched with npm ({type(error).__name__}); run `npm pack "
                f"{package}` elsewhere, put the .tgz into a folder and name that folder in "
                "SQUEEZENEXT_NPM."
            ) from error
    if not _fits(content, package):
        raise InputError(f"{package} is not the package it was: its checksum is another.")
    return content
