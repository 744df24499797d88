"""Processes forked from a server that has imported TensorFlow and not used it."""

import multiprocessing
import multiprocessing.forkserver
import os
from unittest import mock

from squeezenext import tf_import

CONTEXT = multiprocessing.get_context("forkserver")


def begin(*modules: str) -> None:
    """Starts the server with these modules imported, unless it runs already.

    It does not use oneDNN: in a forked process --deterministic comes too late to switch it off.
    """
    CONTEXT.set_forkserver_preload(list(modules))
    with mock.patch.dict(os.environ, {tf_import.ONEDNN: "0"}):
        multiprocessing.forkserver.ensure_running()
