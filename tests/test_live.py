"""Tests for `squeezenext/predict/live.py`: videos, streams and watched folders."""

import functools
import http.server
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from squeezenext import predict
from squeezenext.errors import InputError, RunAgain
from squeezenext.predict import live
from squeezenext.predict.predictor import Predictor
from tests import tiny
from tests.conftest import REPOSITORY
from tests.test_export import made

FPS = 25


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made(tmp_path_factory.mktemp("model"), tiny.SQUEEZENET)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A film of 60 frames, stored without loss."""
    pytest.importorskip("cv2", reason="requirements-camera.txt is not installed")
    cv2 = live._cv2()  # which makes it quiet before its first film
    path = tmp_path_factory.mktemp("video") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), FPS, (64, 48))
    for number in range(60):
        writer.write(picture(number))
    writer.release()
    return path


def picture(number):
    """A frame, [48, 64, 3] uint8 BGR."""
    noise = np.random.default_rng(number).integers(0, 90, (48, 64, 3))
    noise[..., number // 20] += 150
    return noise.astype(np.uint8)


def run(capsys, model, *arguments):
    code = predict.main(["predict", f"--model_dir={model}", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def run_alone(model, source):
    """Runs the command in a process of its own: FFmpeg is quiet from a process's first film on."""
    words = [sys.executable, "predict.py", f"--model_dir={model}", f"--video={source}"]
    words.append("--format=json")
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_frame_is_answered_as_the_same_pixels_in_a_file(model, video, tmp_path):
    """Every frame once, with the probabilities of a PNG to the last bit."""
    predictor = Predictor(model)
    found = list(live.frame_answers(predictor, str(video), smoothing=0, top_k=3))
    assert [answer.frame for answer in found] == list(range(1, 61))
    np.testing.assert_allclose([answer.seconds for answer in found], np.arange(60) / FPS)
    for number, answer in enumerate(found):
        Image.fromarray(picture(number)[..., ::-1]).save(tmp_path / "frame.png")
        assert answer.predictions == predictor.predict(tmp_path / "frame.png", 3)


def test_probabilities_are_averaged_over_time(model, video):
    """The reference is the recursion itself; the weight of a frame follows from its time."""
    predictor = Predictor(model)
    each = [predictor.probabilities(picture(n), channels="BGR") for n in range(60)]
    for every, step in ((0, 1), (0.2, 5)):
        mean = each[0]
        answers = live.frame_answers(predictor, str(video), every=every, smoothing=0.3, top_k=3)
        for number, answer in zip(range(0, 60, step), answers, strict=True):
            share = 1 - np.exp(-step / FPS / 0.3)
            mean = mean + (share if number else 0) * (each[number] - mean)
            told = {row.index: row.probability for row in answer.predictions}
            np.testing.assert_allclose([told[i] for i in range(3)], mean, atol=1e-6)


def test_the_command_prints_a_line_for_each_frame(model, video, capsys):
    code, out, err = run(capsys, model, "--video", video, "--every=1", "--format=json")
    rows = [json.loads(line) for line in out]
    assert (code, err) == (0, "")
    assert [(row["frame"], row["seconds"]) for row in rows] == [(1, 0), (26, 1), (51, 2)]
    assert all(row["path"] == str(video) and row["predictions"] for row in rows)
    code, out, err = run(capsys, model, "--video", video, "--every=2", "--top_k=1")
    assert (code, err) == (0, "") and out[::2] == [
        f"{video}  frame 1, 0.00 s", f"{video}  frame 51, 2.00 s"
    ]  # fmt: skip
    code, out, err = run(capsys, model, "--video", video, "--every=2", "--format=csv")
    assert out[0] == "path,rank,index,synset,label,probability,error,frame,seconds"
    assert out[-1].endswith(",,51,2.0")


def test_a_video_that_is_cut_short_is_said_after_its_frames(model, video, tmp_path, capsys):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    code, out, err = run(capsys, model, "--video", cut, "--format=json")
    assert code == 1 and 10 < len(out) < 40
    assert err == (
        f"error: {cut} ends after {json.loads(out[-1])['seconds']:.1f} of 2.4 s, frame {len(out)}: "
        "it is cut short or damaged.\n"
    )


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no film at all" * 99, None])
def test_what_is_no_video_is_one_sentence(model, video, tmp_path, content):
    path = tmp_path / "film.mp4"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run_alone(model, path)
    assert (code, out) == (2, []) and err.count("\n") == 1
    assert ("there is no such file" if content is None else "no video, or it is damaged") in err


def test_a_camera_that_is_absent_is_one_sentence(model, video, capfd):
    code, out, err = run(capfd, model, "--camera", 99)
    assert (code, out) == (2, [])
    assert err == "error: There is no camera 99 that can be read; the first is 0.\n"


def test_opencv_s_extra_is_named(model, video, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, err = run(capsys, model, "--video", video)
    assert code == 2 and "package cv2 is not installed" in err and "camera" in err


@pytest.mark.parametrize("arguments, told", [
    (["--camera=99999999999"], "flag --camera=99999999999: 99999999999 is not an integer in the"),
    (["--camera=0", "photo.jpg"], "--camera cannot be combined with the paths; leave out one"),
    (["--camera=0", "--watch=x"], "--camera cannot be combined with --watch; leave out one"),
    (["--every=1", "photo.jpg"], "--every means nothing without --camera or --video."),
    (["--smoothing=1", "--watch=x"], "--smoothing means nothing without --camera or --video."),
    (["--video=x", "--features=x.npy"], "--features is for photographs, not for --video."),
    (["--watch=absent"], "--watch absent: there is no such folder."),
    (["--watch=rtsp://x/y"], "--watch rtsp://x/y is no path on this machine"),
])  # fmt: skip
def test_flags_that_do_not_fit_are_said(model, capsys, arguments, told):
    code, _, err = run(capsys, model, *arguments)
    assert code == 2 and err.startswith(f"error: {told}")


class Camera(http.server.BaseHTTPRequestHandler):
    """A camera of a network, which sends one JPEG after the other until it is switched off."""

    def do_GET(self):  # noqa: N802  (http.server's name)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
        self.end_headers()
        for number in range(40):
            data = tiny.jpeg(number, 1)
            self.wfile.write(b"--cut\r\nContent-Type: image/jpeg\r\n")
            self.wfile.write(b"Content-Length: %d\r\n\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_):
        pass


@pytest.fixture
def stream(video):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}/live.mjpg"
        server.shutdown()


def test_a_stream_that_ends_says_so_without_its_password(model, stream):
    code, out, err = run_alone(model, stream)
    rows = [json.loads(line) for line in out]
    assert code == 75 and 1 <= len(rows) <= 40
    numbers = [row["frame"] for row in rows]
    assert numbers == sorted(set(numbers))
    host = f"http://{stream.split('@')[1].removesuffix('/live.mjpg')}"
    assert {row["path"] for row in rows} == {host}
    assert err == f"error: {host} gives no more frames; run the same command again.\n"


@pytest.mark.parametrize("source, told", [
    ("rtsp://u:p@cam:554/s", "rtsp://cam:554"),
    ("rtsp://cam/user=admin&password=p", "rtsp://cam"),
    ("http://cam?token=p", "http://cam"),
    ("http://cam#p", "http://cam"),
    ("rtsp://u:p@[fe80::1%eth0]:554/s", "rtsp://[fe80::1%eth0]:554"),
    ("rtsp://u:p/w@cam/s", "rtsp://..."),
    ("rtsp://u:p@w@cam/s", "rtsp://..."),
    ("rtsp://cam/user=a&password=p@w", "rtsp://..."),
    ("films/a@b.mp4", "films/a@b.mp4"),
    (0, "camera 0"),
])  # fmt: skip
def test_only_the_host_of_an_address_is_shown(source, told):
    assert live.shown(source) == told


def test_a_stream_does_not_wait_for_a_slow_reader(monkeypatch):
    """The newest frame is taken, so what a network is too slow for is left out, not queued."""
    pytest.importorskip("cv2", reason="requirements-camera.txt is not installed")
    slow, ended = threading.Event(), threading.Event()

    def reads():
        yield True, picture(1)
        assert slow.wait(30)
        for number in range(2, 40):
            yield True, picture(number)
        ended.set()
        yield False, None

    capture = mock.Mock(read=functools.partial(next, reads()), get=lambda _: 0)
    monkeypatch.setattr(live, "_opened", lambda _: capture)
    frames = live.frames("rtsp://camera")
    assert next(frames).number == 1
    slow.set()
    assert ended.wait(30)
    rest = []
    with pytest.raises(RunAgain):
        rest.extend(frames)
    assert [frame.number for frame in rest] in ([39], [])


def test_a_watched_folder_names_what_comes_whole(model, tmp_path, monkeypatch):
    """By a clock of its own: time passes, and files come, while the command waits."""
    whole, slow_path = tiny.jpeg(1, 2), tmp_path / "inner" / "slow.jpg"
    (tmp_path / "before.jpg").write_bytes(tiny.jpeg(0, 1))
    slow_path.parent.mkdir()
    now = 0.0

    def writes():
        (tmp_path / "note.txt").write_text("no image")
        (tmp_path / ".hidden.jpg").write_bytes(whole)
        with open(slow_path, "wb") as file:
            for start in range(0, len(whole), 400):
                file.write(whole[start : start + 400])
                file.flush()
                for _ in range(1 if start else 4):  # looks at the folder, at a file that is cut
                    yield
        (tmp_path / "damaged.jpg").write_bytes(whole[:500])

    coming = writes()

    def sleep(seconds):
        nonlocal now
        now += seconds
        next(coming, None)

    monkeypatch.setattr(live, "time", mock.Mock(monotonic=lambda: now, sleep=sleep))
    answers = live.folder_answers(Predictor(model), tmp_path)
    slow, damaged = itertools.islice(answers, 2)
    assert slow.path == str(slow_path) and slow.predictions == Predictor(model).predict(whole)
    assert damaged.path.endswith("damaged.jpg") and damaged.error
    (tmp_path / "before.jpg").write_bytes(whole)  # in the place of another one
    again = next(answers)
    assert again.path.endswith("before.jpg") and again.predictions == slow.predictions
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    tmp_path.rmdir()
    with pytest.raises(RunAgain, match="is gone"):
        next(answers)


def test_a_folder_that_is_none_is_said(model, tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        next(live.folder_answers(Predictor(model), tmp_path / "absent"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_watch_as_wanted(model, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "predict.py", f"--model_dir={model}", f"--watch={tmp_path}"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    names = (tmp_path / f"{n}.jpg" for n in itertools.count())
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()))
    reader.start()
    while reader.is_alive():  # each comes after the command's first look at the folder, or before
        next(names).write_bytes(tiny.jpeg(1, 2))
        reader.join(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == "Stopped.\n" and str(tmp_path) in lines[0]
