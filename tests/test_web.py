"""Tests for `exporting/export_web.py`, `demo.py` and `web/`: the page, driven in Chromium."""

import dataclasses
import functools
import gzip
import http.client
import http.server
import io
import json
import os
import shutil
import socket
import threading
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from squeezenext import demo, files
from squeezenext.compress import command as compress_command
from squeezenext.compress import making
from squeezenext.errors import InputError
from squeezenext.export import checking, command, format
from squeezenext.export import page as export_web
from squeezenext.images import decoding, geometry
from squeezenext.litert import writer
from squeezenext.model import loading, published
from squeezenext.network import graph
from squeezenext.sqz import file as sqz
from tests import browser as browsers
from tests import hostile_images, tiny
from tests.test_export import made as made_model
from tests.test_graph import compute
from tests.test_litert_writer import close, random_weights, run

WAIT = 60  # seconds, on a machine that does other things, too


@pytest.mark.parametrize("biases", [False, True])
def test_the_mean_of_a_class_map_is_the_logit(biases):
    """A classifier's bias, as pytorchcv's networks have one, is part of its maps."""
    change = {"groups": 1, "biases": True, "stem_padding": 1, "pair_order": "1x3_first"}
    model = dataclasses.replace(tiny.SQUEEZENEXT.model, **(change if biases else {}))
    network = graph.of(dataclasses.replace(tiny.SQUEEZENEXT, model=model))
    weights = random_weights(network)
    images = np.random.default_rng(0).normal(0, 1, (32, 32, 3)).astype(np.float32)
    changed, changed_weights = export_web.with_class_maps(network, weights)
    content = writer.write(changed, changed_weights, outputs=[changed.features])
    logits, maps = run(content, images)
    close(logits, compute(network, weights, images[np.newaxis]), 1e-4)
    close(maps.mean((0, 1)), logits, 1e-4)


def test_a_package_that_cannot_be_had_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SQUEEZENEXT_NPM", str(tmp_path))
    monkeypatch.setattr(published, "_opened", lambda *_, **__: io.BytesIO(b"cut"))
    tmp_path.joinpath("other.tgz").write_bytes(b"another package")
    message = "litertjs/core/-/core-2.5.3.tgz cannot be fetched .*3 of .*SQUEEZENEXT_NPM"
    with pytest.raises(InputError, match=message):
        export_web.package_files(export_web.CORE, {})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    place, made = tmp_path / "place", tmp_path / "made"
    for folder in (place, made):
        folder.mkdir()
        folder.joinpath("letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else"):
        format.replace_folder(made, place, command.FORMATS["web"].folder)
    assert place.joinpath("letter.txt").exists()


def exported(model_dir, place, *more) -> int:
    return command.main(["export", f"--model_dir={model_dir}", "--format=web", f"--output={place}",
                        *more])  # fmt: skip


@pytest.fixture
def model_dir(tmp_path, monkeypatch):
    """A tiny model directory; its page has no runtime, which would have to be downloaded."""
    built = [f"wasm/{name}{end}" for name in export_web._BUILDS for end in (".js", ".wasm")]
    runtime = dict.fromkeys(["index.js", "wasm-utils.js", *built], b"")
    monkeypatch.setattr(export_web, "_runtime", lambda: runtime)
    (tmp_path / "mine").mkdir()
    return made_model(tmp_path / "mine", tiny.SQUEEZENEXT)


@pytest.mark.parametrize("name", [".git/HEAD", "CNAME", "runtime/mine.txt", "other/index.html"])
def test_what_lies_beside_a_page_is_not_deleted(model_dir, tmp_path, capsys, name):
    site = tmp_path / "site"
    assert exported(model_dir, site) == 0
    assert exported(model_dir, site) == 0  # of its own kind
    path = site / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    assert exported(model_dir, site) == 2
    assert f"holds something else ({name})" in capsys.readouterr().err
    assert path.read_text() == "precious" and (site / "index.html").is_file()


def test_another_program_s_model_json_is_no_page(model_dir, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for text in ('{"format": "graph-model", "weightsManifest": []}', "[]", "no"):
        (site / "model.json").write_text(text)
        assert exported(model_dir, site) == 2
        assert (site / "model.json").read_text() == text


def test_a_page_that_cannot_be_put_in_place_leaves_the_old_one(model_dir, tmp_path, monkeypatch):
    site = tmp_path / "site"
    assert exported(model_dir, site) == 0
    before, replace = sorted(site.rglob("*")), os.replace

    def refuse(source, target):
        if target == site and ".tmp-" in source.name:
            raise OSError(5, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", refuse)
    assert exported(model_dir, site) == 1
    assert sorted(site.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "site", "site.json"]


def test_a_folder_that_a_killed_process_moved_away_is_brought_back(model_dir, tmp_path):
    site = tmp_path / "site"
    assert exported(model_dir, site) == 0
    (site / "model.json").write_text((site / "model.json").read_text().replace("mine", "old"))
    site.rename(tmp_path / ".site.before-123")
    (tmp_path / "mine" / "labels.json").rename(tmp_path / "labels.json")
    assert exported(model_dir, site) == 2  # for whatever reason: the page is there again
    assert '"old"' in (site / "model.json").read_text()
    (tmp_path / "labels.json").rename(tmp_path / "mine" / "labels.json")
    assert exported(model_dir, site) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "site", "site.json"]


def test_what_a_killed_process_left_of_the_folder_it_replaced_is_removed(model_dir, tmp_path):
    site = tmp_path / "site"
    assert exported(model_dir, site) == 0
    shutil.copytree(site, tmp_path / f".site.before-{os.getpid()}")
    assert exported(model_dir, site) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "site", "site.json"]


def far_from(model_dir, path):
    """Writes a `.sqz` file of the same network with other answers."""
    known = loading.load(model_dir)
    weights = dict(known.weights)
    weights["classifier/kernel"] = -20 * weights["classifier/kernel"]
    path.parent.mkdir(exist_ok=True)
    made = making._losslessly(
        dataclasses.replace(known, weights=weights), compress_command.Method(lossless=True)
    )
    sqz.write(path, made.encoded.data)


def names(site) -> list[str]:
    return [row["name"] for row in json.loads((site / "model.json").read_text())["files"]]


def test_a_page_has_the_compressed_network_only_where_it_is_the_same(model_dir, tmp_path, capsys):
    site, path = tmp_path / "site", model_dir / "exported" / "model.sqz"
    far_from(model_dir, path)
    assert exported(model_dir, site) == 0
    assert "too far from the model's" in capsys.readouterr().err and names(site) == ["float32"]
    compress_command.compress(model_dir, path, compress_command.Method(lossless=True))
    assert exported(model_dir, site) == 0 and names(site) == ["float32", "compressed"]
    note = '{"weights_sha256": "a", "max_bytes": 9}'  # as `adapt` writes it
    files.origin_note(path).write_text(note)
    (model_dir / "final.json").write_text('{"weights_sha256": "a"}')
    assert exported(model_dir, site) == 0 and names(site) == ["float32", "compressed"]
    for later in ('{"weights_sha256": "b"}', None):  # trained on; being trained
        (model_dir / "final.json").write_text(later) if later else (
            model_dir / "final.json"
        ).unlink()
        capsys.readouterr()
        assert exported(model_dir, site) == 0 and names(site) == ["float32"]
        assert f"goes without {path}: it was made of other weights" in capsys.readouterr().err
    path.write_bytes(b"damaged")
    files.origin_note(path).unlink()
    assert exported(model_dir, site) == 0 and names(site) == ["float32"]


def test_the_demo_shows_no_page_that_answers_otherwise(model_dir, monkeypatch, capsys):
    def upside_down(network, weights, *_):
        return network, {n: a[::-1] if a.ndim == 4 else a for n, a in weights.items()}

    def shown(_):
        raise AssertionError("The page is shown.")

    monkeypatch.setattr(http.server.ThreadingHTTPServer, "serve_forever", shown)
    monkeypatch.setattr(export_web.rgb, "take_rgb", upside_down)
    assert demo.main(["demo", "--model_dir", str(model_dir), "--port", "0"]) == 1
    assert "probabilities differ from the model's" in capsys.readouterr().err


def test_the_demo_ends_well_and_looks_at_its_port_first(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(loading, "load", lambda name: name)
    monkeypatch.setattr(export_web, "make_page", lambda *_: made.append(True) or [])

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(http.server.ThreadingHTTPServer, "serve_forever", interrupted)
    assert demo.main(["demo", "--model_dir", "mine", "--port", "0"]) == 0
    assert made and "http://127.0.0.1:" in capsys.readouterr().out
    made.clear()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert demo.main(["demo", "--model_dir", "mine", "--port", port]) == 2
    assert not made and f"--port {port} cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [("127.0.0.1:{port}", "/page.js", 200), ("localhost:{port}", "/page.js", 200),
     ("attacker.example", "/page.js", 421), ("127.0.0.1.attacker.example", "/page.js", 421),
     ("", "/page.js", 421), ("127.0.0.1:{port}", "/inside/", 404)],
)  # fmt: skip
def test_the_demo_answers_this_machine_alone(tmp_path, host, path, status):
    """A name that resolves to 127.0.0.1 would let a stranger's page read what is served."""
    (tmp_path / "page.js").write_text("1")
    (tmp_path / "inside").mkdir()
    with demo.server(tmp_path, 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=20)
        connection.request("GET", path, headers={"Host": host.format(port=serving.server_port)})
        response = connection.getresponse()
        assert response.status == status
        assert status != 200 or response.headers["X-Content-Type-Options"] == "nosniff"
        connection.close()
        serving.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory, shared):
    """The page of the published SqueezeNet 1.0, served on this machine, and the network."""
    browsers.wanted()
    folder = tmp_path_factory.mktemp("web")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUEEZENEXT_WEIGHTS", str(shared / "weights"))
        model = loading.load("squeezenet_v1_0")
    compressed = loading.load(_compressed(model, tmp_path_factory.mktemp("sqz") / "model.sqz"))
    pictures = _pictures(shared, tmp_path_factory.mktemp("pictures"))
    known = [_crop(path, model) for path in pictures[:8]]
    try:
        export_web.write(model, folder, known, compressed)
    except InputError as error:
        pytest.skip(str(error))
    checking.compare_all(export_web.runners(folder), model, known[:2])
    with demo.server(folder, 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/", model, pictures, folder
        serving.shutdown()


def _pictures(shared, folder):
    import tarfile

    with tarfile.open(shared / "imagenet-100.tar") as archive:
        members = [member for member in archive if member.isfile()][:20]
        for member in members:
            name = member.name.rsplit("/", 1)[-1]
            folder.joinpath(name).write_bytes(archive.extractfile(member).read())
    return sorted(folder.iterdir())


def _compressed(model, path):
    """Writes the published network, whose kernels have 256 values a layer, as a `.sqz` file."""
    parts = {name.rsplit("/", 1)[1]: {} for name in model.weights}
    for name, array in model.weights.items():
        layer, part = name.rsplit("/", 1)
        parts[part][layer] = array
    encoded = sqz.encode(model, parts["kernel"], parts["bias"])
    path.write_bytes(encoded.data)
    return path


def _crop(path, model):
    image = decoding.read_image(path.read_bytes(), path.name)
    return geometry.centre_pixels(image, model.config.images)


@pytest.fixture
def browser(site):
    with browsers.chromium(1100, 900) as page:
        page.get(site[0])
        until(page, lambda: text(page, "status").startswith("Ready: float32"))
        yield page
        assert not [row for row in page.get_log("browser") if row["level"] == "SEVERE"]
        hosts = {urllib.parse.urlsplit(url).hostname for url in browsers.requests(page)}
        assert hosts == {"127.0.0.1"}


def until(driver, condition) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, WAIT, 0.05).until(lambda _: condition())


def text(driver, name: str) -> str:
    return driver.find_element("id", name).text


def give(driver, path) -> None:
    """Chooses a picture and waits for its result."""
    before = len(driver.find_elements("css selector", "#strip button"))
    driver.find_element("id", "files").send_keys(str(path))
    chosen = "#strip li:last-child button[aria-current=true]"
    until(
        driver,
        lambda: (
            len(driver.find_elements("css selector", "#strip button")) == before + 1
            and driver.find_elements("css selector", chosen)
        ),
    )


def best(driver) -> list[tuple[int, float]]:
    rows = driver.find_elements("css selector", "#classes button")
    return [(int(r.get_attribute("data-index")), float(r.text.split()[-2])) for r in rows]


def test_the_page_sees_what_predict_sees(browser, site):
    _, model, pictures, _ = site
    reference = checking.reference(model)
    for path in pictures:
        give(browser, path)
        expected = reference(_crop(path, model))
        order = np.argsort(-expected, kind="stable")[:5]
        assert [index for index, _ in best(browser)] == list(order), path.name
        np.testing.assert_allclose([p for _, p in best(browser)], 100 * expected[order], atol=0.02)
    status = text(browser, "status")  # which screen readers say
    assert status.startswith(f"{model.labels[order[0]].text}, ") and " ms, 5.00 MB." in status
    assert text(browser, "about").startswith("squeezenet_v1_0, 1000 classes. ")


OWN_PAGE = """<!doctype html><script type="module" src="../site/squeeze-classifier.js"></script>
<squeeze-classifier id="asks" top="3">Your photograph:</squeeze-classifier>
<squeeze-classifier id="shows" network="int8" src="photo.jpg"></squeeze-classifier>
"""


def test_an_element_for_pages_of_others_in_another_folder(site, tmp_path):
    """Two of them at once: the runtime runs one network at a time."""
    (tmp_path / "site").symlink_to(site[3])
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "index.html").write_text(OWN_PAGE)
    shutil.copy(site[2][0], tmp_path / "shop" / "photo.jpg")
    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with browsers.chromium(600, 600) as page:
            page.get(f"http://127.0.0.1:{server.server_port}/shop/")
            page.execute_script(
                "asks.addEventListener('classified', (event) => (window.told = event.detail))"
            )
            asks, shows = (page.find_element("id", name).shadow_root for name in ("asks", "shows"))
            asks.find_element("css selector", "input").send_keys(str(site[2][0].resolve()))
            until(page, lambda: page.execute_script("return window.told?.classes.length") == 3)
            until(page, lambda: len(shows.find_elements("css selector", "li")) == 5)
            told = page.execute_script("return window.told")
            expected = checking.reference(site[1])(_crop(site[2][0], site[1]))
            best = told["classes"][0]
            assert best["index"] == expected.argmax() and told["name"] == site[2][0].name
            assert best["label"] == site[1].labels[best["index"]].text
            assert abs(best["probability"] - expected.max()) < 1e-3
            assert asks.find_element("css selector", "li").text.startswith(best["label"])
            page.execute_script("document.getElementById('shows').setAttribute('src', 'no.jpg')")
            said = "no.jpg cannot be fetched (404)."
            until(page, lambda: shows.find_element("css selector", "p").text == said)
            assert not shows.find_elements("css selector", "li")
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "AVIF"])
def test_the_page_turns_a_photograph_however_it_was_held(browser, site, tmp_path, kind):
    """HEIC and TIFF are read by Safari alone."""
    from tests.test_predictor import TURNED_BACK, stored_as

    picture = decoding.read_image(site[2][0].read_bytes(), "x").resize((330, 250))
    told = []
    for orientation, back in enumerate((None, *TURNED_BACK)):
        path = tmp_path / f"held{orientation}.{kind.lower()}"
        stored = picture if back is None else picture.transpose(back)
        path.write_bytes(stored_as(kind, stored, max(1, orientation)))
        give(browser, path)
        told.append(best(browser)[0])
    assert len({index for index, _ in told}) == 1
    scores = [probability for _, probability in told]
    np.testing.assert_allclose(scores, scores[0], atol=2)  # per cent
    expected = checking.reference(site[1])(geometry.centre_pixels(picture, site[1].config.images))
    assert told[0][0] == expected.argmax() and abs(scores[0] - 100 * expected.max()) < 2


@pytest.mark.parametrize("kind", ["TIFF", "HEIC"])
def test_what_a_browser_cannot_read_is_said(browser, tmp_path, kind):
    if kind == "HEIC" and not hostile_images.HAS_HEIC:
        pytest.skip("requirements-heic.txt is not installed")
    from tests.test_predictor import stored_as

    path = tmp_path / f"held.{kind.lower()}"
    path.write_bytes(stored_as(kind, Image.new("RGB", (96, 64)), 6))
    browser.find_element("id", "files").send_keys(str(path))
    said = f"{path.name} is not a picture that this browser can read; save it as JPEG."
    until(browser, lambda: said in browser.find_element("tag name", "body").text)


def test_another_model_and_the_heat_map_of_another_class(browser, site):
    from selenium.webdriver.support.ui import Select

    give(browser, site[2][0])
    canvas = browser.find_element("id", "picture")
    first = canvas.screenshot_as_png
    second = browser.find_elements("css selector", "#classes button")[1]
    second.click()
    assert second.get_attribute("aria-pressed") == "true"
    assert canvas.screenshot_as_png != first
    assert second.text.split("\n")[0] in canvas.get_attribute("aria-label")
    browser.find_element("id", "heat").click()
    assert canvas.get_attribute("aria-label") == site[2][0].name
    before = best(browser)
    Select(browser.find_element("id", "model")).select_by_value("int8.tflite")
    until(browser, lambda: " int8: " in text(browser, "status"))
    assert " ms, 1.37 MB." in text(browser, "status")
    assert best(browser) != before and best(browser)[0][0] == before[0][0]
    Select(browser.find_element("id", "model")).select_by_value("compressed.tflite.gz")
    until(browser, lambda: " compressed: " in text(browser, "status"))
    megabytes = float(text(browser, "status").split()[-2])
    assert megabytes < 1.0
    np.testing.assert_allclose([p for _, p in best(browser)], [p for _, p in before], atol=0.5)


def test_the_heat_map_leaves_out_the_classifier_s_padding(browser, site):
    """A ring of large values, which SqueezeNet 1.0's bias may be, and one place at the edge."""
    drawn = browser.execute_async_script(
        """
        const done = arguments[arguments.length - 1], side = 15, size = 300;
        const model = JSON.parse(arguments[0]);
        import("./heat.js").then(({ drawHeat }) => {
          const maps = new Float32Array(side * side).fill(9);
          for (let y = 1; y < 14; y++) for (let x = 1; x < 14; x++) maps[y * side + x] = 0;
          maps[13 * side + 13] = 5;
          const canvas = new OffscreenCanvas(size, size), context = canvas.getContext("2d");
          context.fillStyle = "grey";
          context.fillRect(0, 0, size, size);
          const picture = { width: size, height: size, result: { maps, probabilities: [1], side } };
          drawHeat(context, picture, 0, model);
          const at = (x, y) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3);
          done([at(276, 276), at(150, 150), at(24, 24), at(24, 276), at(276, 24)]);
        }, (error) => done(String(error)));
        """,
        (site[3] / "model.json").read_text(),
    )
    (hot, *rest) = np.array(drawn)
    assert np.ptp(hot) > 50
    assert all(np.ptp(colour) < 20 for colour in rest)


def test_a_host_that_calls_gzip_an_encoding(browser, site):
    """The browser has undone it: what comes is the network itself, under a name that ends so."""
    from selenium.webdriver.support.ui import Select

    give(browser, site[2][0])
    file = site[3] / "compressed.tflite.gz"
    packed = file.read_bytes()
    file.write_bytes(gzip.decompress(packed))
    try:
        Select(browser.find_element("id", "model")).select_by_value(file.name)
        until(browser, lambda: " compressed: " in text(browser, "status"))
    finally:
        file.write_bytes(packed)


def test_a_bad_file_is_named_and_the_next_works(browser, site, tmp_path):
    bad = tmp_path / "letter.jpg"
    bad.write_bytes(b"no picture")
    browser.find_element("id", "files").send_keys(f"{bad}\n{site[2][1]}")
    until(browser, lambda: "letter.jpg is not a picture" in text(browser, "error"))
    until(browser, lambda: len(best(browser)) == 5)
    give(browser, site[2][0])
    assert not browser.find_element("id", "error").is_displayed()


def test_a_network_that_cannot_be_loaded_leaves_the_one_that_runs(browser, site):
    from selenium.webdriver.support.ui import Select

    give(browser, site[2][0])
    before, file = best(browser), site[3] / "int8.tflite"
    away = file.rename(site[3] / "away")
    try:
        choice = Select(browser.find_element("id", "model"))
        choice.select_by_value(file.name)
        until(browser, lambda: "int8.tflite cannot be fetched (404)" in text(browser, "error"))
        assert choice.first_selected_option.get_attribute("value") == "float32.tflite"
        give(browser, site[2][0])
        assert best(browser) == before and " float32: " in text(browser, "status")
    finally:
        away.rename(file)
    told = [row["message"] for row in browser.get_log("browser") if row["level"] == "SEVERE"]
    assert len(told) == 1 and "404" in told[0]  # the one that was meant


def test_the_camera_names_what_it_sees_and_keeps_the_class_that_was_chosen(browser):
    """Chromium's stand-in of a camera: a ball that moves over a green ground."""
    camera = browser.find_element("id", "camera")
    camera.click()
    until(browser, lambda: len(best(browser)) == 5 and camera.is_enabled())
    assert camera.get_attribute("aria-pressed") == "true"
    shown, text_of = (
        browser.find_element("id", "picture"),
        "return arguments[0].click(), arguments[0].firstChild.textContent",
    )
    label = browser.execute_script(
        text_of, browser.find_elements("css selector", "#classes button")[1]
    )
    until(browser, lambda: label in shown.get_attribute("aria-label"))
    for _ in range(5):
        browser.execute_script("return new Promise(requestAnimationFrame)")
        assert label in shown.get_attribute("aria-label")
    assert " ms" not in text(browser, "status")  # else it would be said for every frame
    camera.click()
    assert camera.get_attribute("aria-pressed") == "false"


def test_the_keyboard_alone_reaches_everything(browser, site):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    give(browser, site[2][0])
    give(browser, site[2][1])
    browser.execute_script("document.activeElement.blur()")
    seen = []
    for _ in range(14):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        seen.append(focused.get_attribute("id") or focused.get_attribute("data-index"))
        if focused.get_attribute("data-index") == str(best(browser)[2][0]):
            ActionChains(browser).send_keys(Keys.SPACE).perform()
            assert focused.get_attribute("aria-pressed") == "true"
        if focused.get_attribute("aria-label") == site[2][0].name:
            ActionChains(browser).send_keys(Keys.ENTER).perform()
            break
    until(browser, lambda: focused.get_attribute("aria-current") == "true")
    assert {"files", "camera", "model", "heat"} <= set(seen)
    assert browser.switch_to.active_element.get_attribute("aria-label") == site[2][0].name


def test_a_phone_and_the_dark(browser, site):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    give(browser, site[2][0])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    assert least_contrast(browser) >= 4.5
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert least_contrast(browser) >= 4.5
    if folder := os.environ.get("SQUEEZENEXT_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/web-phone.png")
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        for path in site[2][1:6]:
            give(browser, path)
        browser.save_screenshot(f"{folder}/web.png")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.save_screenshot(f"{folder}/web-dark.png")


def least_contrast(browser) -> float:
    pairs = [("text", "page"), ("soft", "page"), ("text", "bar"), ("text", "panel")]
    pairs += [("bad", "page"), ("accent", "page"), ("on-accent", "accent"), ("soft", "panel")]
    return min(contrast(browser, f"--{front}", f"--{back}") for front, back in pairs)


def contrast(browser, front: str, back: str) -> float:
    """WCAG 2's contrast ratio of two of the page's colours."""
    script = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"
    lights = sorted(_luminance(browser.execute_script(script, name)) for name in (front, back))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: str) -> float:
    digits = colour.strip().lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
