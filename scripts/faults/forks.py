"""Forks processes from one that has imported TensorFlow but has not used it."""

import multiprocessing
import multiprocessing.forkserver
import os
from unittest import mock

from squeezenext import tf_import

CONTEXT = multiprocessing.get_context("forkserver")


def begin(*modules: str) -> None:
    """Starts the server that forks, with these modules imported, if it does not run yet.

    It goes without oneDNN: in a forked process --deterministic comes too late for that.
    """
    CONTEXT.set_forkserver_preload(list(modules))
    with mock.patch.dict(os.environ, {tf_import.ONEDNN: "0"}):
        multiprocessing.forkserver.ensure_running()
