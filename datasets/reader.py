"""Reads the bytes of examples out of the files that a listing names."""

import os

from squeezenext.errors import InputError

from . import images
from .listing import Listing


class Reader:
    """Reads examples' bytes; the last file stays open, since an archive holds many."""

    def __init__(self, listing: Listing) -> None:
        self._files = listing.files
        self._rows = listing.table[["file", "offset", "size"]].tolist()  # numpy's cost 5 us each
        self._file = self._descriptor = -1

    def read(self, place: int) -> bytes:
        """Returns the bytes of the example at `place`.

        Raises:
          ImageError: they are too many.
          InputError: the file is gone, or shorter than when it was listed.
        """
        file, offset, size = self._rows[place]
        if size > images.MAX_BYTES:
            raise images.ImageError(f"is larger than {images.MAX_BYTES >> 20} MB")
        try:
            if file != self._file:
                self._open(file)
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise InputError(
                f"{self._files[file]} cannot be read ({error.strerror}); mend that and run the "
                "command again."
            ) from error
        if len(data) != size:
            raise InputError(
                f"{self._files[file]} became shorter while it was read; run the command again."
            )
        return data

    def _open(self, file: int) -> None:
        self.close()
        self._descriptor = os.open(self._files[file], os.O_RDONLY | os.O_CLOEXEC)
        self._file = file

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._file = self._descriptor = -1
