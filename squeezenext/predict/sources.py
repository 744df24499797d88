"""The sources of images: files, folders, patterns, URLs, standard input."""

import collections
import contextlib
import fnmatch
import glob
import http.client
import ipaddress
import os
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from squeezenext.arguments import is_url
from squeezenext.cli import counted, log, plural
from squeezenext.errors import InputError
from squeezenext.files import expanded, is_leftover, read_bytes
from squeezenext.images.decoding import ENDINGS, MAX_BYTES

T = TypeVar("T")
_MAX_LIST = 2 << 30  # bytes, which list 20 million images


def expand(paths: Sequence[str], allow_url: bool = False) -> list[str]:
    """Returns the names of single images in the given order, those of a folder sorted.

    A folder stands for all files below it whose ending is that of an image, but for what systems
    leave there (`files.is_leftover`); a line of the log counts the others by ending. A folder
    without any image, or that cannot be listed, stands for itself, so that reading it gives the
    error. A name such as "photos/**/*.jpg" is a pattern unless a file has that very name. A file
    .txt is a list: each of its lines is the path or URL of an image, and nothing else.

    Raises:
      InputError: all folders are empty, a pattern matches no file, a list cannot be read, or URLs
        are not allowed.
    """
    found: list[str] = []
    empty = 0
    for path in paths:
        if is_url(path):
            found.append(path)
        elif path.lower().endswith(".txt") and os.path.isfile(path):
            found += _listed(path)
        elif path != "-" and os.path.isdir(path):
            inside = _inside(path)
            found += inside or [path]
            empty += not inside
        elif path != "-" and glob.has_magic(path) and not os.path.lexists(path):
            found += _matching(path)
        else:
            found.append(path)
    if empty and empty == len(found):
        raise InputError(f"{found[0]} holds no image ({', '.join(sorted(ENDINGS))}).")
    if not allow_url and (url := next(filter(is_url, found), "")):
        raise InputError(f"{url} is a URL; --allow_url lets this command fetch it.")
    return found


def _listed(path: str) -> list[str]:
    """Returns the lines of a list; bytes that are not UTF-8 become surrogates, as in sys.argv."""
    text = read_bytes(Path(path), _MAX_LIST).decode("utf-8-sig", "surrogateescape")
    # Not splitlines, for which a name may hold an end of a line.
    names = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if not names:
        raise InputError(f"{path} lists no image; write the path of one on each line.")
    return names


def _matching(pattern: str) -> list[str]:
    parts = pattern.split(os.sep)
    if "**" in parts:
        first = parts.index("**")
        head = "".join(f"{part}{os.sep}" for part in parts[:first])
        matched = sorted(_below(head, parts[first:]))
    else:
        matched = sorted(glob.glob(pattern))
    files = [path for path in matched if not os.path.isdir(path)]
    if not files:
        raise InputError(
            f"No file matches {pattern}; a pattern such as 'photos/**/*.jpg' finds those in all "
            "folders below photos."
        )
    if folders := len(matched) - len(files):
        log(f"{pattern}: {plural(folders, 'folder')} skipped; name a folder for what is in it.")
    return files


def _below(head: str, tail: Sequence[str]) -> Iterator[str]:
    """Yields the files that match `head` and `tail`, which begins with "**", following no link.

    `glob` follows links: a link to its own folder gives each file 40 names, two give it 2 ** 40.
    """
    for folder in glob.glob(head) if head else [""]:
        for parent, _, names in os.walk(folder or os.curdir):
            inside = os.path.relpath(parent, folder or os.curdir)
            inner = [] if inside == os.curdir else inside.split(os.sep)
            for name in names:
                if _fits([*inner, name], tail):
                    yield os.path.join(folder, *inner, name)


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Says whether a path fits a pattern; as in `glob`, no star matches a hidden name."""
    if not parts or not names:
        return not parts and not names or list(parts) == ["**"]
    if parts[0] == "**":
        hidden = names[0].startswith(".")
        return _fits(names, parts[1:]) or not hidden and _fits(names[1:], parts)
    shown = parts[0].startswith(".") or not names[0].startswith(".")
    return shown and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _inside(folder: str) -> list[str]:
    unreadable: list[str] = []
    images: list[str] = []
    others: collections.Counter[str] = collections.Counter()
    walk = os.walk(folder, onerror=lambda error: unreadable.append(error.filename))
    links = 0  # to folders, which the walk does not follow
    for parent, folders, names in walk:
        folders[:] = [name for name in folders if not is_leftover(name)]
        links += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if ending in ENDINGS and not is_leftover(name):
                images.append(os.path.join(parent, name))
            elif not is_leftover(name):
                others[ending or "no ending"] += 1
    if others:
        log(f"{folder}: skipped by their endings: {counted(others)}.")
    if links:
        log(f"{folder}: {plural(links, 'link to a folder', 'links to folders')} skipped.")
    return sorted(images) + [path for path in unreadable if path != folder]


def read(path: str, allow_url: bool = False) -> bytes:
    """Returns the encoded bytes of an image file, a URL or standard input ("-").

    Raises:
      InputError: it cannot be read, is no regular file, or is too large.
    """
    if path == "-":
        return _bounded(sys.stdin.buffer.read(MAX_BYTES + 1), "Standard input")
    if is_url(path):
        if not allow_url:
            raise InputError(f"{path} is a URL; allow_url=True lets it be fetched.")
        return fetch(path, max_bytes=MAX_BYTES)
    try:
        if os.path.isdir(found := expanded(path)):
            raise InputError(f"{path} is a folder; name an image in it.")
        return read_bytes(found, MAX_BYTES)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path!r} cannot be a file's name: {error}.") from error


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES >> 20} MB.")
    return data


def stem(path: str) -> str:
    """Returns a short name for a source that is safe as part of a file name."""
    kept = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in Path(path).stem
    )
    return kept[:60] or "image"


# Fetches an image from a URL that a stranger may have written.
#
# Such a URL may point into the network that this machine stands in (server-side request forgery).
# So: https alone; each host is resolved once, every address must be public, and the connection goes
# to the very address that was checked, at every redirect, so that a second answer of the name
# server (DNS rebinding) is never asked for. Proxies are not used: they would resolve again.


SECONDS = 20.0  # for all redirects together
REDIRECTS = 5
_MOVED = {301, 302, 303, 307, 308}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # RFC 4291; outside are loopback, mapped, local
# IANA's special-purpose registries: addresses inside these that `ipaddress` takes for global, in
# some of Python's releases, and those that hold another address.
_SPECIAL = [
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16",
                  "3fff::/20")
]  # fmt: skip


def fetch(url: str, *, max_bytes: int, seconds: float = SECONDS) -> bytes:
    """Downloads an image from an https URL; no more than `max_bytes` is ever read. As `visit`."""
    return visit(url, lambda response: _content(response, max_bytes), "image/*", seconds)


def visit(
    url: str, take: Callable[[http.client.HTTPResponse], T], accept: str, seconds: float
) -> T:
    """Returns what `take` makes of the answer at an https URL.

    Args:
      url: the URL.
      take: reads the answer; it raises `Refused` to refuse it.
      accept: the kinds of content that are asked for, such as "image/*".
      seconds: the limit for everything, however slowly the server sends, but for the lookup of the
        name, which the system's resolver does.

    Raises:
      InputError: the URL is not allowed, or cannot be fetched within the limits.
    """
    shown, deadline = url, time.monotonic() + seconds
    try:
        for _ in range(REDIRECTS + 1):
            with _answer(url, accept, deadline) as response:
                if response.status not in _MOVED or not response.headers["Location"]:
                    if response.status != 200:
                        later = response.status == 429 or response.status >= 500
                        kind = ConnectionError if later else Refused  # it may answer better then
                        raise kind(f"the server says {response.status} {response.reason}")
                    content = take(response)
                    _left(deadline)  # a connection that was cut looks like one that ended
                    return content
                url = urllib.parse.urljoin(url, response.headers["Location"])
        raise Refused(f"it redirects more than {REDIRECTS} times")
    except (Refused, OSError, http.client.HTTPException, ValueError) as error:
        late = time.monotonic() >= deadline
        reason = f"it took over {seconds:g} s" if late else _reason(error)
        raise InputError(f"{shown} cannot be fetched: {reason}.") from error


class Refused(Exception):
    """The reason why a URL is not downloaded."""


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".")


@contextlib.contextmanager
def _answer(url: str, accept: str, deadline: float) -> Iterator[http.client.HTTPResponse]:
    """Asks for a URL and gives the answer, which may be that it has moved."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme.lower() != "https" or not parts.hostname or parts.username is not None:
        raise Refused("only https://HOST/... is, without a user's name")
    address = public_address(parts.hostname, parts.port or 443)
    connection = _Checked(parts.hostname, parts.port or 443, address, _left(deadline))
    # The timeout of a socket begins anew with each byte; this one does not.
    watch = threading.Timer(_left(deadline), connection.cut)
    watch.daemon = True
    watch.start()
    try:
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        connection.request(
            "GET",
            path + (f"?{query}" if query else ""),
            headers={"Accept": accept, "User-Agent": "squeezenext"},
        )
        response = connection.getresponse()
        _left(deadline)
        yield response
    finally:
        watch.cancel()
        connection.close()


def _content(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if (response.length or 0) > max_bytes:
        raise Refused(f"it is larger than {max_bytes >> 20} MB")
    content = response.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Refused(f"it is larger than {max_bytes >> 20} MB")
    if response.length:
        raise Refused("the server stopped before its end")
    return content


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("too slow")
    return left


def public_address(host: str, port: int) -> str:
    """Returns an address of a host that has public addresses alone.

    Raises:
      OSError: the name has no address.
      Refused: an address is private, loopback, link-local, or otherwise not public.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [entry[4][0] for entry in found]
    for address in addresses:
        if not is_public(address):
            raise Refused(f"{host} is at {address}, which is no public address")
    return addresses[0]


def is_public(address: str) -> bool:
    """Says whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in block for block in _SPECIAL)


class _Checked(http.client.HTTPSConnection):
    """An HTTPS connection to one address; the certificate must be that of the host's name."""

    def __init__(self, host: str, port: int, address: str, timeout: float):
        super().__init__(host, port, timeout=timeout, context=_context())
        self._address = address
        self._late = False
        self._raw: socket.socket | None = None

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        try:
            # The handshake comes later, so that `cut` finds a socket while it goes on. The base
            # class drops its own reference once a server has said "Connection: close".
            self.sock = self._raw = self._context.wrap_socket(
                plain, server_hostname=self.host, do_handshake_on_connect=False
            )
            if self._late:
                raise TimeoutError("too slow")
            self.sock.do_handshake()
        except BaseException:
            (self._raw or plain).close()
            raise

    def cut(self) -> None:
        """Ends the connection, whatever waits for it, and any later attempt."""
        self._late = True
        if self._raw is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._raw, socket.SHUT_RDWR)


def _context() -> ssl.SSLContext:
    return ssl.create_default_context()
