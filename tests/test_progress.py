"""Progress in a log and on a terminal."""

import io

from squeezenext import progress


def test_a_line_every_ten_seconds_and_one_at_the_end(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.throughput("Converting", 300, 3_000_000) as advance:
        for seconds in (5, 10, 15, 19.9, 21):
            now[0] = seconds
            advance(50, 500_000)
        now[0] = 30
        advance(50, 500_000)
    assert capsys.readouterr().err.splitlines() == [
        "Converting: 100 of 300 images, 10 images/s, 0.1 MB/s, 20 s left",
        "Converting: 250 of 300 images, 12 images/s, 0.1 MB/s, 4 s left",
        "Converting: 300 of 300 images, 10 images/s, 0.1 MB/s, 0 s left",
    ]


def test_a_pipe_has_no_end_in_sight(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.throughput("Reading", 0, 0) as advance:
        now[0] = 10
        advance(50, 5_000_000)
    assert capsys.readouterr().err == "Reading: 50 of ? images, 5 images/s, 0.5 MB/s\n"


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    screen = io.StringIO()
    console = progress.rich.console.Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress.rich.console, "Console", lambda **_: console)
    with progress.throughput("Verifying", 20, 2_000_000, unit="shards") as advance:
        advance(5, 500_000)
        advance(15, 1_500_000)
    assert "Verifying shards" in screen.getvalue() and "20 of 20" in screen.getvalue()


def test_nothing_is_shown_on_request(capsys):
    with progress.throughput("x", 1, 1, visible=False) as advance:
        advance(1, 1)
    assert capsys.readouterr().err == ""
