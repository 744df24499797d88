"""Serves a model's web page on this machine.

    python -m squeezenext.demo --model_dir DIR|NAME [--data_dir RECORDS] [--port 8000]

The page is that of `squeezenext.export --format web`, made in a temporary folder. Only this machine
can reach it. --data_dir adds the int8 network.
"""

import contextlib
import functools
import http.server
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from absl import flags

from squeezenext.cli import run
from squeezenext.errors import InputError
from squeezenext.export import checking
from squeezenext.export import page as export_web
from squeezenext.model import loading

LOOPBACK = ("127.0.0.1", "localhost")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves static files with the types that browsers require, and logs no requests.

    A request must name this machine: a page elsewhere whose name resolves to 127.0.0.1 (DNS
    rebinding) could read the model otherwise.
    """

    timeout = 20  # seconds that a connection may be silent, each of which holds a thread
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".tflite": "application/octet-stream",
        ".json": "application/json",
    }

    def end_headers(self) -> None:
        """Adds headers: isolated, as threads in WebAssembly require, never cached or guessed at."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        """Answers a request with its headers, and returns the file to send."""
        if self.headers.get("Host", "").split(":")[0] not in LOOPBACK:
            self.send_error(http.HTTPStatus.MISDIRECTED_REQUEST)
            return None
        return super().send_head()

    def list_directory(self, path: str | os.PathLike) -> None:
        """Lists no folder."""
        del path
        self.send_error(http.HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments: object) -> None:
        """Logs nothing."""
        del arguments


def server(folder: str | Path, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of a folder on 127.0.0.1; port 0 picks a free one.

    Raises:
      InputError: the port is taken.
    """
    handler = functools.partial(Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise InputError(f"--port {port} cannot be used: {error.strerror}.") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory or published model's name.", **at)
    flags.DEFINE_string("data_dir", None, "Records to calibrate int8 on.", **at)
    flags.DEFINE_integer("port", 8000, "Port on 127.0.0.1; 0 picks a free one.", 0, 65535, **at)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        model, port = loading.load(values["model_dir"].value), values["port"].value
        data_dir, count = values["data_dir"].value, checking.CALIBRATION_IMAGES
        model_dir = values["model_dir"].value
        with tempfile.TemporaryDirectory() as folder, server(folder, port) as serving:
            images = checking.images(model, data_dir, count) if data_dir else []
            networks = export_web.make_page(model, model_dir, Path(folder), images)
            checking.compare_all(networks, model, images)
            print(f"http://127.0.0.1:{serving.server_port}/ until you press Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                serving.serve_forever()

    return run(command, values, __doc__, argv, required=("model_dir",), addresses=("data_dir",))


if __name__ == "__main__":
    sys.exit(main())
