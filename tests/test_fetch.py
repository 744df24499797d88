"""Tests for `sources.fetch`: a URL from a stranger reaches no private address."""

import contextlib
import http.server
import io
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from squeezenext.adapt import command, photographs
from squeezenext.convert import sources as places
from squeezenext.errors import InputError, RunAgain
from squeezenext.predict import sources
from tests.converting import convert
from tests.test_archives import jpeg


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
     "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1%eth0",
     "fd00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
     "64:ff9b:1::a00:1", "2001:0:4136:e378:8000:63bf:f5ff:fffe", "::127.0.0.1",
     "::ffff:0:127.0.0.1", "192.0.0.8", "192.88.99.1", "2001:db8::1", "3fff::1", "5f00::1",
     "100::1", "198.18.0.1", "240.0.0.1", "::ffff:8.8.8.8"],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not sources.is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2001:4860:4860::8888"]
)
def test_addresses_that_are_public(address):
    assert sources.is_public(address)


@pytest.mark.parametrize(
    "url",
    ["http://example.com/a.jpg", "https://user:word@example.com/", "https:///a.jpg",
     "file:///etc/passwd", "https://127.0.0.1/a.jpg", "https://localhost/a.jpg",
     "https://[::1]/a.jpg", "https://2130706433/", "https://0x7f.1/", "https://[::bad/",
     "https://example.com:99999/"],
)  # fmt: skip
def test_urls_that_are_refused_in_one_sentence(url, monkeypatch):
    def no_connection(*_, **__):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "create_connection", no_connection)
    with pytest.raises(InputError, match="cannot be fetched: "):
        sources.fetch(url, max_bytes=100)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as the path says."""

    def do_GET(self):  # noqa: N802
        kind = self.path.strip("/").split("/")[0]
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif kind == "loop":
            self.send_response(301)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif kind == "slow":
            heads = {"header": b"", "close": b"Connection: close\r\n\r\n",
                     "length": b"Content-Length: 400\r\n\r\n",
                     "chunks": b"Transfer-Encoding: chunked\r\n\r\n"}  # fmt: skip
            framing = self.path.rpartition("/")[2]
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + heads[framing])
            for _ in range(100):  # a byte now and then, each within any socket's timeout
                self.wfile.write(b"1\r\nA\r\n" if framing == "chunks" else b"A")
                time.sleep(0.1)
        elif kind in ("missing", "busy"):
            self.send_error(404 if kind == "missing" else 503)
        else:
            self.send_response(200)
            if kind == "declared":
                self.send_header("Content-Length", "1000000")
            self.end_headers()
            if kind == "image":
                self.wfile.write(jpeg(int(self.path.rpartition("/")[2].partition(".")[0])))
                return
            content = b"PK\5\6" if kind == "zip" else b"x"
            self.wfile.write(content * (100 if kind == "small" else 1000))

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """An HTTPS server at home.test, a name that resolves to a public address."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is absent: it makes the test server's certificate.")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=home.test", "-addext", "subjectAltName=DNS:home.test", "-keyout", folder / "key.pem",
         "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], folder / "cert.pem"
    server.shutdown()
    server.server_close()


PUBLIC = "93.184.215.14"


@pytest.fixture
def home(site, monkeypatch):
    """home.test has a public address, every other name a private one."""
    port, certificate = site
    asked, connected = [], []
    connect = socket.create_connection

    def resolve(host, *_, **__):
        if host == "127.0.0.1":  # create_connection's own look at a number
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        asked.append(host)
        address = PUBLIC if host == "home.test" else "192.168.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def reach(address, *arguments):
        connected.append(address[0])
        return connect(("127.0.0.1", address[1]), *arguments)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", reach)
    monkeypatch.setattr(
        sources, "_context", lambda: ssl.create_default_context(cafile=str(certificate))
    )
    return f"https://home.test:{port}", asked, connected


def test_the_connection_goes_to_the_address_that_was_checked(home):
    base, asked, connected = home
    assert sources.fetch(f"{base}/small", max_bytes=100) == b"x" * 100
    assert asked == ["home.test"] and connected == [PUBLIC]


def test_a_redirect_is_followed_and_checked_again(home):
    base, asked, connected = home
    assert sources.fetch(f"{base}/to//small", max_bytes=100) == b"x" * 100
    assert asked == ["home.test"] * 2
    for target in ("https://inside.test/", "http://home.test/small", "file:///etc/passwd"):
        connected.clear()
        with pytest.raises(InputError, match="no public address|only https"):
            sources.fetch(f"{base}/to/{target}", max_bytes=100)
        assert connected == [PUBLIC]  # the redirect was seen, its target never reached


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    both = [(2, 1, 6, "", (address, 443)) for address in (PUBLIC, "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(InputError, match="10.0.0.1, which is no public address"):
        sources.fetch("https://two.test/", max_bytes=100)


@pytest.mark.parametrize(
    ("path", "message"),
    [("large", "larger than"), ("declared", "larger than"), ("missing", "404"),
     ("loop", "redirects more than 5 times")],
)  # fmt: skip
def test_limits(home, path, message):
    with pytest.raises(InputError, match=message):
        sources.fetch(f"{home[0]}/{path}", max_bytes=500)


@pytest.mark.parametrize("framing", ["header", "close", "length", "chunks"])
def test_a_server_that_drips_is_cut_off(home, framing):
    started = time.monotonic()
    with pytest.raises(InputError, match="it took over 0.5 s"):
        sources.fetch(f"{home[0]}/slow/{framing}", max_bytes=500, seconds=0.5)
    assert time.monotonic() - started < 5


def test_a_handshake_that_drips_is_cut_off(home, monkeypatch):
    """A record of TLS is announced, and comes a byte at a time: each within a socket's timeout."""
    listener = socket.create_server(("127.0.0.1", 0))
    connect = socket.socket.connect

    def drip():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")
            for _ in range(60):
                time.sleep(0.1)
                connection.sendall(b"\0")

    def reach(address, *_):
        found = socket.socket()
        found.settimeout(5)
        connect(found, listener.getsockname())
        return found

    monkeypatch.setattr(socket, "create_connection", reach)
    threading.Thread(target=drip, daemon=True).start()
    started = time.monotonic()
    with listener, pytest.raises(InputError, match="it took over 0.5 s"):
        sources.fetch(f"{home[0]}/small", max_bytes=500, seconds=0.5)
    assert time.monotonic() - started < 3


def test_a_certificate_of_another_name_is_refused(home, monkeypatch):
    monkeypatch.setattr(sources, "_context", ssl.create_default_context)
    with pytest.raises(InputError, match="certificate"):
        sources.fetch(f"{home[0]}/small", max_bytes=100)


def test_an_archive_is_downloaded_once(home, tmp_path):
    base, _, connected = home
    path = places.downloaded(f"{base}/zip", tmp_path / "mine")
    assert path.read_bytes() == b"PK\5\6" * 1000 and connected == [PUBLIC]
    assert places.downloaded(f"{base}/zip", tmp_path / "mine") == path and connected == [PUBLIC]
    assert places.downloaded("photos.zip", tmp_path) == Path("photos.zip")


@pytest.mark.parametrize(
    ("path", "message"),
    [("small", "is the address of no zip or tar; give that of the file itself"),
     ("declared", "the server stopped before its end"), ("missing", "404")],
)  # fmt: skip
def test_of_an_archive_that_cannot_be_had_nothing_is_left(home, tmp_path, path, message):
    with pytest.raises(InputError, match=message):
        places.downloaded(f"{home[0]}/{path}", tmp_path / "mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("last", [b"", b"a page about it"])
def test_two_downloads_at_once_do_not_meet(tmp_path, monkeypatch, last):
    """The second call takes nothing from the first, whether that ends well or not."""
    address, folder, message = "https://a/photos.zip", tmp_path / "mine", "mine is being written by"

    def visit(_, take, *__):
        with pytest.raises(RunAgain, match=message):
            places.downloaded(address, folder)
        content = io.BytesIO(last or b"PK\5\6" * 10)
        content.length = 0
        take(content)
        with pytest.raises(RunAgain, match=message):
            places.downloaded(address, folder)
        assert [path.read_bytes() for path in folder.glob("*.part")] == [content.getvalue()]

    monkeypatch.setattr(sources, "visit", visit)
    if last:
        with pytest.raises(InputError, match="the address of no zip or tar"):
            places.downloaded(address, folder)
        assert not folder.exists()
    else:
        assert places.downloaded(address, folder).read_bytes() == b"PK\5\6" * 10


def listed(home, tmp_path, *more: str) -> Path:
    rows = [f"{home[0]}/image/{n}.jpg?size=1,{'cat' if n % 2 else 'dog'}" for n in range(10)]
    (tmp_path / "pets.csv").write_text("\n".join(["address,label", *rows, *more]) + "\n")
    return tmp_path / "pets.csv"


def test_the_images_at_the_addresses_of_a_list_are_downloaded_once(home, tmp_path, capsys):
    base, asked, _ = home
    path = listed(home, tmp_path, f"{base}/missing,cat", f"{base}/small,dog", "https://x.y/1,dog",
                  f"{base}/large/a.jpg,dog", "http://home.test/1.jpg,cat",
                  "https://[::bad/,cat")  # fmt: skip
    place = places.downloaded(str(path), tmp_path / "mine")
    said = capsys.readouterr().err
    for reason in ("404", "small is text, no JPEG", "192.168.0.1, which is no public address",
                   "large/a.jpg is text", "only https"):  # fmt: skip
        assert reason in said
    manifest = convert(place, tmp_path / "records", layout="csv", workers=1)
    assert sum(part.examples for part in manifest.splits.values()) == 10
    names = {row["file"]: row["reason"] for row in manifest.raw["rejected"]}
    assert len(names) == 6 and "was not downloaded" in names[f"{base}/missing"]
    asked.clear()
    assert places.downloaded(str(path), tmp_path / "mine") == place and not asked
    listed(home, tmp_path, f"{base}/image/10.jpg,cat")
    assert places.downloaded(str(path), tmp_path / "mine") != place and len(asked) == 1


@pytest.mark.parametrize("other", ["page", "file_name"])
def test_the_column_of_images_is_downloaded_and_each_address_once(home, tmp_path, other):
    base, asked, _ = home
    rows = [f"{base}/image/{n // 2}.jpg,{'cat' if n // 2 % 2 else 'dog'}" for n in range(20)]
    before = {"page": f"{base}/missing", "file_name": "gone.jpg"}[other]
    text = "\n".join([f"{other},url,label", *(f"{before},{row}" for row in rows)])
    (tmp_path / "pets.csv").write_text(text + "\n")
    place = places.downloaded(str(tmp_path / "pets.csv"), tmp_path / "mine")
    assert len(asked) == 10
    manifest = convert(place, tmp_path / "records", layout="csv", workers=1)
    assert sum(part.examples for part in manifest.splits.values()) == 10


def test_after_an_outage_the_same_command_goes_on(home, tmp_path, monkeypatch):
    path, connected, reach = listed(home, tmp_path), home[2], socket.create_connection

    def broken(*arguments):
        if len(connected) == 3:
            raise OSError(101, "Network is unreachable")
        return reach(*arguments)

    monkeypatch.setattr(places, "_THREADS", 1)
    monkeypatch.setattr(places, "_MOST_FAILED", 4)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", broken)
        with pytest.raises(RunAgain, match="4 addresses in a row do not .*Network is unreachable"):
            places.downloaded(str(path), tmp_path / "mine")
    assert len([*(tmp_path / "mine").glob("*.jpg")]) == 3 and not [
        *(tmp_path / "mine").glob("*.csv")
    ]
    place = places.downloaded(str(path), tmp_path / "mine")
    assert len(connected) == 10 and "https" not in place.read_text()


@pytest.mark.parametrize(("kind", "interrupts"), [("busy", True), ("missing", False)])
def test_a_busy_server_interrupts_a_list_and_a_missing_image_does_not(
    home, tmp_path, monkeypatch, kind, interrupts
):
    monkeypatch.setattr(places, "_MOST_FAILED", 4)
    path = listed(home, tmp_path, *(f"{home[0]}/{kind}/{n},cat" for n in range(4)))
    with pytest.raises(RunAgain, match="503") if interrupts else contextlib.nullcontext():
        places.downloaded(str(path), tmp_path / "mine")


def test_of_a_list_that_cannot_be_had_nothing_is_left(home, tmp_path):
    for rows, message in (
        (["a.jpg,cat", f"{home[0]}/image/1.jpg,dog", "b.jpg,dog"], "row 3 has no https address"),
        ([f"{home[0]}/missing/{n},cat" for n in range(200)], "none of 50 images could be had"),
        ([f"{home[0]}/missing,cat"], "none of 1 images could be had. .*404"),
    ):
        (tmp_path / "pets.csv").write_text("\n".join(rows) + "\n")
        with pytest.raises(InputError, match=message):
            places.downloaded(str(tmp_path / "pets.csv"), tmp_path / "mine")
        assert [path.name for path in tmp_path.iterdir()] == ["pets.csv"]


def test_images_of_a_list_are_bounded_together(home, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_MOST_DOWNLOADED", 5_000)
    with pytest.raises(InputError, match="its images have over"):
        places.downloaded(str(listed(home, tmp_path)), tmp_path / "mine")


def test_what_was_downloaded_does_not_stop_adapt(home, tmp_path, capsys, monkeypatch):
    """It lies in the model's directory, which must hold nothing else at the beginning."""
    reached = InputError("as far as this")
    monkeypatch.setattr(photographs, "groups", lambda *_: (_ for _ in ()).throw(reached))
    for place in (str(listed(home, tmp_path)), f"{home[0]}/zip"):
        assert command.main(["adapt", place, f"--model_dir={tmp_path / 'mine'}"]) == 2
        assert "as far as this" in capsys.readouterr().err


def test_adapt_in_python_downloads_and_a_look_before_keeps_what_came(home, tmp_path, monkeypatch):
    path, asked, mine = listed(home, tmp_path), home[1], tmp_path / "mine"
    assert command.main(["adapt", str(path), f"--model_dir={mine}", "--dry_run"]) == 0
    assert len(asked) == 10 and [each.name for each in mine.iterdir()] == ["photographs"]
    reached = InputError("as far as this")
    monkeypatch.setattr(photographs, "groups", lambda *_: (_ for _ in ()).throw(reached))
    with pytest.raises(InputError, match="as far as this"):
        command.adapt(path, mine)
    assert len(asked) == 10
    assert command.main(["adapt", str(path), "--dry_run"]) == 0 and len(asked) == 20


def test_adapt_takes_no_private_address(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["adapt", "https://127.0.0.1/photos.zip", "--model_dir=mine"]) == 2
    assert "127.0.0.1, which is no public address" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_large_archive_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_MOST_DOWNLOADED", 500)
    monkeypatch.setattr(places, "_CHUNK", 100)
    with pytest.raises(InputError, match="it is larger than"):
        places.downloaded(f"{home[0]}/zip", tmp_path)
