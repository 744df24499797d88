"""Tests for `squeezenext/serve.py`: a server on a free port, and clients of all kinds."""

import contextlib
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from squeezenext import serve
from squeezenext.predict import main as predict_main
from squeezenext.predict.predictor import Predictor
from tests import tiny
from tests.conftest import REPOSITORY

CLIENTS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model_directory(folder, tiny.SQUEEZENET)
    return folder


@contextlib.contextmanager
def serving(model, threads=2, max_bytes=50_000, timeout=20.0):
    """Runs a server in this process and gives its port."""
    server = serve.Service(Predictor(model), threads, max_bytes, timeout).server()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def port(model):
    with serving(model) as port:
        yield port


def ask(port, body=None, path="/predict", headers=()):
    """The status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def form(content, name='name="image"; filename="a.jpg"'):
    """The arguments of `ask` for a form with one field."""
    head = f"--xyz\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode()
    kind = {"Content-Type": "multipart/form-data; boundary=xyz"}
    return head + content + b"\r\n--xyz--\r\n", "/predict", kind


def metrics(port):
    rows = ask(port, path="/metrics")[2].decode().splitlines()
    return {name: float(value) for name, value in (row.rsplit(" ", 1) for row in rows
                                                   if not row.startswith("#"))}  # fmt: skip


def test_eight_clients_get_the_answers_of_predict(model, port, tmp_path, capsys):
    images = [tiny.jpeg(number, number % 3 + 1, 40 + number) for number in range(CLIENTS)]
    for number, content in enumerate(images):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    paths = [str(tmp_path / f"{number}.jpg") for number in range(CLIENTS)]
    assert predict_main(["predict", *paths, "--model_dir", str(model), "--format", "json"]) == 0
    known = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    before = metrics(port)

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for at in [*range(number, CLIENTS), *range(number)]:
            body, path, headers = form(images[at]) if at % 2 else (images[at], "/predict", {})
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            assert response.status == 200 and response.headers["Content-Type"] == "application/json"
            shown = {"path": "a.jpg" if at % 2 else "image"}
            assert json.loads(response.read()) == known[at] | shown
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(client, range(CLIENTS)))
    after, name = metrics(port), 'squeezenext_requests_total{status="200"}'
    assert after[name] - before.get(name, 0) == CLIENTS**2
    count = "squeezenext_request_seconds_count"
    assert after[count] - before[count] == CLIENTS**2 and after["squeezenext_in_flight"] == 0


def bomb():
    """A small PNG that declares 60,000 pixels a side."""
    file = io.BytesIO()
    Image.new("1", (60_000, 60_000)).resize((1, 1)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(content)


CASES = {
    "no image": ((b"hello", "/predict", {}), 422, "image is text"),
    "an empty body": ((b"", "/predict", {}), 422, "image is empty"),
    "half an image": ((tiny.jpeg(0, 1)[:500], "/predict", {}), 422, "image "),
    "too many pixels": ((bomb(), "/predict", {}), 422, "image "),
    "a bad file": (form(b"hello"), 422, "a.jpg is text"),
    "too large": ((bytes(50_001), "/predict", {}), 413, "larger than 50000 bytes"),
    "too large in a form": (form(bytes(50_001)), 413, "larger than 50000 bytes"),
    "far too large": ((bytes(3_000_000), "/predict", {}), 413, "larger than 50000 bytes"),
    "no file": (form(b"hello", 'name="image"'), 400, "The form holds no file"),
    "two files": ((form(b"1")[0][:-9] * 2, *form(b"")[1:]), 400, "Too many files"),
    "no form": ((b"hello", *form(b"")[1:]), 400, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused_is_said_in_a_sentence_as_openapi_has_it(port, case):
    arguments, status, words = CASES[case]
    found, headers, body = ask(port, *arguments)
    answer = json.loads(body)
    assert found == status and words in answer["error"] and answer["predictions"] == []
    post = json.loads(ask(port, path="/openapi.json")[2])["paths"]["/predict"]["post"]
    (kind, content), = post["responses"][str(status)]["content"].items()  # fmt: skip
    assert kind == headers["Content-Type"]
    assert set(content["schema"]["required"]) == answer.keys()
    assert answer.keys() <= content["schema"]["properties"].keys()
    assert ask(port, tiny.jpeg(0, 1))[0] == 200  # the server goes on


def test_openapi_names_every_path_and_field(port):
    status, headers, body = ask(port, path="/openapi.json")
    document = json.loads(body)
    assert status == 200 and document["openapi"] == "3.1.0"
    for path in document["paths"].keys() - {"/predict"}:
        status, headers, body = ask(port, path=path)
        (kind,) = document["paths"][path]["get"]["responses"]["200"]["content"]
        assert status == 200 and headers["Content-Type"].startswith(kind)
    assert json.loads(ask(port, path="/health")[2]) == {"status": "ok", "classes": tiny.CLASSES}
    responses = document["paths"]["/predict"]["post"]["responses"]
    schema = responses["200"]["content"]["application/json"]["schema"]["properties"]
    answer = json.loads(ask(port, tiny.jpeg(0, 1))[2])
    row = schema["predictions"]["items"]["properties"]
    assert all(found.keys() == row.keys() for found in answer["predictions"])
    assert set(responses) == {"200", "400", "408", "413", "422", "503"}
    assert ask(port)[0] == 405 and ask(port, path="/")[0] == 404


def opened(port, start):
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(start)
    return client


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%s\r\n"


def test_slow_clients_hold_no_thread_and_are_ended(model):
    with serving(model, threads=1, timeout=1.0) as port:
        slow = [opened(port, start) for start in (HEAD % (100, b"") + b"x", b"POST /pre")]
        silent = opened(port, b"")
        refused = opened(port, HEAD % (50_001, b"") + bytes(50_000))  # one byte is left
        assert ask(port, tiny.jpeg(0, 1))[0] == 200 and metrics(port)["squeezenext_in_flight"] == 0
        answers = [b"", b""]
        ended = threading.Event()

        def trickle():
            while not ended.wait(0.05):
                for client in slow:
                    with contextlib.suppress(OSError):
                        client.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        for number, client in enumerate(slow):
            with contextlib.suppress(ConnectionError):
                while part := client.recv(4096):
                    answers[number] += part
        ended.set()
        thread.join()
        assert answers[0].startswith(b"HTTP/1.1 408") and b"within 1 s" in answers[0]
        assert answers[1] == b""
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""
        assert refused.recv(4096).startswith(b"HTTP/1.1 408")
        for client in (*slow, silent, refused):
            client.close()
        assert ask(port, tiny.jpeg(0, 1))[0] == 200


def test_a_connection_is_idle_from_its_last_answer_on(model):
    """By a clock of its own: an answer just before an earlier limit begins a new one."""
    server = serve.Service(Predictor(model), 1, 50_000, 10).server()
    server.config.load()
    clock, transport = mock.Mock(), mock.Mock()
    transport.is_closing.return_value = False
    connection = serve._Connection(server.config, server.server_state, {}, _loop=clock)
    due = {}

    def call_later(seconds, function, *arguments):
        timer = mock.Mock(cancel=lambda: due.pop(timer, None))
        due[timer] = now + seconds, lambda: function(*arguments)
        return timer

    def at_time(new):
        nonlocal now
        for timer in [timer for timer in due if due[timer][0] <= new]:
            now, work = due.pop(timer)
            work()
        now = new

    now, clock.call_later = 0, call_later
    connection.connection_made(transport)
    at_time(5)
    connection.cycle = types.SimpleNamespace(response_complete=False)
    at_time(19)
    connection.cycle.response_complete = True
    with mock.patch.object(H11Protocol, "on_response_complete"):
        connection.on_response_complete()
    at_time(28)
    assert not transport.abort.called
    at_time(29)
    assert transport.abort.called and not due


@pytest.mark.parametrize("limit", ["_MOST_WAITING", "_MOST_HELD"])
def test_a_busy_server_says_when_to_ask_again(model, monkeypatch, limit):
    begun, go_on, answer = threading.Event(), threading.Event(), Predictor.answer

    def slowly(*arguments):
        begun.set()
        assert go_on.wait(30)
        return answer(*arguments)

    monkeypatch.setattr(Predictor, "answer", slowly)
    image = tiny.jpeg(0, 1)
    monkeypatch.setattr(serve, limit, 1)
    with serving(model, max_bytes=len(image)) as port, ThreadPoolExecutor(1) as client:
        first = client.submit(ask, port, image)
        assert begun.wait(30) and metrics(port)["squeezenext_in_flight"] == 1
        status, headers, body = ask(port, image)
        assert status == 503 and headers["Retry-After"] == "1" and b"is busy" in body
        go_on.set()
        assert first.result()[0] == 200 and ask(port, image)[0] == 200
        assert metrics(port)['squeezenext_requests_total{status="503"}'] == 1


def command(*arguments, **environment):
    words = [sys.executable, "-m", "squeezenext.serve", *map(str, arguments)]
    return subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, **environment)


def test_a_request_in_flight_is_answered_after_sigterm(model):
    image = tiny.jpeg(0, 1)
    with command("--model_dir", model, "--port", 0) as process:
        port = int(re.search(r":(\d+)/predict", process.stderr.readline())[1])
        client = opened(port, HEAD % (len(image), b"Expect: 100-continue\r\n"))
        assert client.recv(4096).startswith(b"HTTP/1.1 100")  # it is in flight
        process.send_signal(signal.SIGTERM)
        with pytest.raises(OSError):  # which accepts no others from now on
            for _ in range(600):
                opened(port, b"").close()
                threading.Event().wait(0.05)
        client.sendall(image)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 200 and len(json.loads(response.read())["predictions"]) == 3
        client.close()
        assert process.wait(30) == 0 and process.stderr.read() == ""


def test_a_port_in_use_and_a_missing_model_are_said(model, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve.main(["serve", "--model_dir", str(model), "--port", port]) == 2
    assert f"--port {port} cannot be used: Address" in capsys.readouterr().err
    assert serve.main(["serve", "--model_dir", str(tmp_path / "none"), "--port", "0"]) == 2
    assert "none" in capsys.readouterr().err


def test_without_the_extra_it_names_it(tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    with command("--help", env={"PYTHONPATH": str(tmp_path)}) as process:
        text = process.stderr.read()
    assert process.returncode == 2 and text.count("\n") == 1
    assert "package uvicorn is not installed" in text and "requirements-serve.txt" in text
