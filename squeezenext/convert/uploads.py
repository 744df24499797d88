"""The output of a conversion: a folder, or an address to which a folder of the cache is sent.

Each shard is sent when it is finished, the manifest last. What was sent has a mark in the work
folder, so that an interrupted upload goes on.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from squeezenext import files, progress
from squeezenext.convert import commit, plan, shards
from squeezenext.errors import InputError
from squeezenext.records import dataset, stores


class Destination:
    """The output of a conversion: `place`, which is made in `folder`. Raises as `stores.upload`."""

    def __init__(self, place: stores.AnyPath):
        if str(place).startswith("https://"):
            raise InputError(f"{place} can only be read; give --output s3://BUCKET/records.")
        self.place, self._address = place, place if isinstance(place, stores.Address) else None
        key = hashlib.sha256(str(place).encode()).hexdigest()[:16]
        self.folder = place if isinstance(place, Path) else stores.copies_folder() / "outputs" / key

    def claim(self, planned: Sequence[str], overwrite: bool) -> None:
        """Removes what this conversion did not send; InputError: another machine sent it."""
        if not (address := self._address):
            return
        names = {path.name for path in address.iterdir()}
        left = names & {*planned, *plan.finished_files(address)}
        claimed = self.folder / ".claimed"
        if left and not (overwrite or claimed.exists()):
            raise InputError(
                f"{address / min(left)} is there; give another --output, or --overwrite."
            )
        files.write_text(claimed, "")  # from now on, what is there is ours
        sent = {path.stem for path in (self.folder / commit.WORK).glob("*.sent")}
        for name in [dataset.MANIFEST, *sorted(left - sent)]:
            (address / name).unlink()

    def publish(self, drafted: shards.Written) -> shards.Written:
        """Publishes a shard as `shards.publish` and sends it; an older one waits for `finish`."""
        result = shards.publish(self.folder, drafted)
        if self._address and drafted.draft:
            self._send(self._address, result.file)
        return result

    def finish(self, planned: Sequence[str], visible: bool) -> None:
        """Sends what an address lacks of the planned files, then the manifest."""
        if not self._address:
            return
        sizes = stores.sizes_of([self._address / name for name in planned])
        paths = [self.folder / name for name in planned]
        missing = [p for p, size in zip(paths, sizes, strict=True) if p.stat().st_size != size]
        with progress.throughput("Sending", len(missing), 0, visible, "files") as advance:
            for path in missing:
                self._send(self._address, path.name)
                advance(1, path.stat().st_size)
        self._send(self._address, dataset.MANIFEST)

    def clean(self) -> None:
        """Removes the work folder, or all that was made here for an address."""
        shutil.rmtree(self.folder if self._address else self.folder / commit.WORK, True)

    def _send(self, address: stores.Address, name: str) -> None:
        stores.upload(self.folder / name, address / name)
        (self.folder / commit.WORK / f"{name}.sent").touch()
