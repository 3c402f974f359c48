"""The page of `python -m stages.demo`: in a real browser, and what its server answers and refuses."""

import asyncio
import base64
import http.client
import io
import json
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Error, Page, Request, expect

from poster_genres.demo import HEADERS, LOOPBACK, MAX_BYTES, application, host_of
from poster_genres.detection import open_detector
from poster_genres.explanations import explain, logits_by_object
from poster_genres.fusion import equal_weights
from poster_genres.model import save_model
from poster_genres.movies import COLUMNS, write_movies
from poster_genres.prediction import Predictor
from poster_genres.words import WORDS, fit_words
from tests.conftest import SCREENSHOTS, copy_project, free_port, jpeg, serving, set_parameters, stage
from tests.test_fusion import CPU, two_stream_model

# Each reads words, beside a server that loads torch.
pytestmark = pytest.mark.slow

GENRES = ["Horror", "Romance", "Action"]
FOREIGN = "This page answers only to itself, under the address that its command printed."
TOO_LARGE = "This file is larger than 20 MB; give a smaller one."
NOT_AN_IMAGE = "This file cannot be read: not an image; JPEG, PNG, GIF, WebP, BMP and TIFF can be read."


def poster(word: str, kind: str = "JPEG") -> bytes:
    """A poster with one word on it that is easily read."""
    image = Image.new("RGB", (240, 360), (20, 30, 60))
    ImageDraw.Draw(image).text((120, 250), word, fill="white", font=ImageFont.load_default(44), stroke_width=1, anchor="ma")
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_model(path: Path) -> None:
    """A model to which BLOOD means Horror, LOVE Romance and GUNS Action; its networks have learned nothing."""
    model, detected = two_stream_model()
    words = [next((one.text for one in content.objects if one.text), "") for content in detected]
    labels = np.array([[word == "BLOOD", word == "LOVE", word == "GUNS"] for word in words], np.float32)
    model.genres, model.words, model.objects, model.classes = GENRES, fit_words(detected, labels), None, ["lettering"]
    model.detectors = {"lettering": open_detector("lettering").version}
    model.fusion = equal_weights(["networks", *WORDS], 3)
    model.thresholds = [0.01, 0.02, 0.99999]
    path.parent.mkdir(exist_ok=True)
    save_model(model, path)


@pytest.fixture(scope="module")
def project_with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with that model, and a test set of one movie."""
    folder = copy_project(tmp_path_factory.mktemp("demo"))
    write_model(folder / "models" / "model.pt")
    (folder / "data" / "posters").mkdir()
    (folder / "data" / "posters" / "m1.jpg").write_bytes(poster("LOVE"))
    set_parameters(folder, dataset="data/posters")
    rows = [["m1", "", "m1.jpg", "A <b>Tale", "1999", "test", 0, 1, 1], ["m2", "", "m2.jpg", "", "", "train", 1, 0, 0]]
    write_movies(pd.DataFrame(rows, columns=[*COLUMNS, *GENRES]), folder / "data" / "movies.csv")
    return folder


@pytest.fixture(scope="module")
def address(project_with_model: Path) -> Iterator[str]:
    """Where the page is served."""
    command = (sys.executable, "-m", "stages.demo", "--no-browser", "--port", "{port}")
    with serving(*command, cwd=project_with_model, healthy="/about") as (address, _):
        said = (project_with_model / "server.log").read_text(encoding="utf-8")
        assert said == f"{address} tells the genres of posters, until Ctrl-C\n"
        yield address


def ask(address: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask for a path exactly as it is given, with POST if there is a body; status, headers by lower name, and body."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, body, sent)
    response = connection.getresponse()
    answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return answer


def ask_within(app: Any, path: str, **headers: str) -> tuple[int, bytes]:
    """POST to an application in this process."""
    messages: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": raw}
    asyncio.run(app(scope | {"root_path": "", "scheme": "http", "http_version": "1.1"}, receive, send))
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:])


def test_only_the_page_can_be_got(address: str) -> None:
    for path, kind in (("/", "text/html"), ("/demo.css", "text/css"), ("/demo.js", "text/javascript")):
        status, headers, _ = ask(address, path)
        assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert {name: headers[name.lower()] for name in HEADERS} == HEADERS
        assert "server" not in headers
    assert "default-src 'self'" in HEADERS["Content-Security-Policy"]
    for path in (
        "/demo.py",
        "/demo.html",
        "/models/model.pt",
        "/../models/model.pt",
        "/%2e%2e/models/model.pt",
        "/..%2f..%2fparams.yaml",
        "/demo.js/../demo.py",
        "/demo.js%00.html",
        "//etc/passwd",
        "/etc/passwd",
        "/posters/m1.jpg",
        "/docs",
        "/openapi.json",
    ):
        status, headers, text = ask(address, path)
        assert (status, text) == (404, b"Not Found"), path
        assert headers["x-content-type-options"] == "nosniff"


def test_a_poster_gets_what_the_predictor_says(address: str, project_with_model: Path) -> None:
    data = poster("BLOOD")
    status, headers, text = ask(address, "/posters", data)
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    first, second = map(json.loads, text.splitlines())
    predictor = Predictor(project_with_model / "models" / "model.pt", CPU)
    (expected,) = predictor.predict([data])
    assert not isinstance(expected, str)
    assert expected.content is not None
    order = np.argsort(-expected.probabilities)
    assert first["verdict"] == predictor.verdict(expected)
    assert [one["genre"] for one in first["genres"]] == [GENRES[i] for i in order]
    assert [one["probability"] for one in first["genres"]] == pytest.approx(expected.probabilities[order], abs=1e-4)
    assert [one["threshold"] for one in first["genres"]] == [[0.01, 0.02, 0.99999][i] for i in order]
    assert [one["chosen"] for one in first["genres"]] == [GENRES[i] in first["verdict"] for i in order]
    (word,) = first["found"]
    assert word == expected.content.objects[0]._asdict()
    assert (word["label"], word["text"]) == ("lettering", "BLOOD")
    added = logits_by_object(predictor.model, expected.content)[0]
    assert {one["genre"]: one["added"] for one in first["genres"]} == {
        genre: [pytest.approx(float(logit), abs=1e-3)] for genre, logit in zip(GENRES, added, strict=True)
    }
    assert max(first["genres"], key=lambda one: one["added"][0])["genre"] == "Horror"
    shown = Image.open(io.BytesIO(base64.b64decode(first["picture"].removeprefix("data:image/jpeg;base64,"))))
    assert shown.size == (240, 360)
    # All maps are on one scale.
    maps = explain(predictor.model, expected.pixels, order.tolist(), CPU)
    grey = Image.open(io.BytesIO(base64.b64decode(second["maps"].removeprefix("data:image/png;base64,"))))
    assert (second["height"], second["width"]) == (40, 32)
    assert second["top"] == pytest.approx(float(maps.max()), rel=1e-3)
    np.testing.assert_allclose(np.asarray(grey).reshape(maps.shape) / 255 * second["top"], maps, atol=0.01 * second["top"])
    assert second["peaks"] == pytest.approx(maps.max(axis=(1, 2)), abs=2e-3)


def many_pixels() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 5_001)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        (b"text", 422, NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, NOT_AN_IMAGE),
        (b"", 422, "This file cannot be read: empty file."),
        (jpeg((90, 30, 160))[:-300], 422, "This file cannot be read: truncated."),
        (many_pixels(), 422, "This file cannot be read: more than 50 million pixels."),
        (bytes(MAX_BYTES + 1), 413, TOO_LARGE),
    ],
    ids=["text", "svg", "empty", "truncated", "pixels", "bytes"],
)
def test_a_bad_file_is_answered_in_words(address: str, data: bytes, status: int, sentence: str) -> None:
    # Without a length before it, as a length may be wrong.
    answers = [ask(address, "/posters", iter([data[i : i + 1_000_000] for i in range(0, len(data), 1_000_000)]))]
    if len(data) <= MAX_BYTES:
        answers.append(ask(address, "/posters", data))
    for code, headers, text in answers:
        assert (code, json.loads(text)) == (status, {"error": sentence})
        assert headers["x-content-type-options"] == "nosniff"


def test_a_length_that_is_too_large_is_refused_before_it_comes(address: str) -> None:
    status, _, text = ask(address, "/posters", b"", content_length=str(MAX_BYTES + 1))
    assert (status, json.loads(text)) == (413, {"error": TOO_LARGE})


def test_other_sites_get_no_answer(address: str) -> None:
    data, own = poster("LOVE"), address.removeprefix("http://")
    refused = [
        {"Host": "evil.example"},
        {"Host": own.replace("127.0.0.1", "127.0.0.1.evil.example")},
        {"Host": own, "Origin": "http://evil.example"},
        {"Host": own, "Origin": "null"},
        {"Host": own, "Origin": address.replace("http", "https")},
        {"Host": own, "Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": ""},
    ]
    for headers in refused:
        for path, body in (("/", None), ("/posters", data), ("/test-posters", b"")):
            status, answer, text = ask(address, path, body, **headers)
            assert (status, json.loads(text)) == (403, {"error": FOREIGN}), headers
            assert answer["content-security-policy"] == HEADERS["Content-Security-Policy"]
    for headers in ({"Host": own, "Origin": address}, {"Host": own.replace("127.0.0.1", "localhost")}):
        assert ask(address, "/about", None, **headers)[0] == 200


def test_a_host_that_is_given_may_have_any_name_but_no_guests(project_with_model: Path) -> None:
    assert [host_of(one) for one in ("a.b:80", "LOCALHOST", "[::1]:80", "a@b", "[", "")] == ["a.b", "localhost", "::1", "b", "", ""]
    predictor = Predictor(project_with_model / "models" / "model.pt", CPU)
    missing = (404, b'{"error":"There is no test set here yet; `dvc repro` makes it."}')
    refused = (403, json.dumps({"error": FOREIGN}, separators=(",", ":")).encode())
    anywhere, here = (application(predictor, None, hosts) for hosts in (None, LOOPBACK))
    assert ask_within(anywhere, "/test-posters", host="posters.example:80", origin="http://posters.example:80") == missing
    assert ask_within(anywhere, "/test-posters", host="posters.example", origin="https://posters.example") == missing
    assert ask_within(anywhere, "/test-posters", host="posters.example", origin="http://evil.example") == refused
    assert ask_within(anywhere, "/test-posters", host="posters.example", origin="https://evil.example") == refused
    assert ask_within(here, "/test-posters", host="posters.example") == refused
    assert ask_within(here, "/test-posters", host="[::1]:80") == missing


def test_a_test_poster_comes_with_its_true_genres(address: str) -> None:
    first = json.loads(ask(address, "/test-posters", b"")[2].splitlines()[0])
    assert (first["title"], first["truth"]) == ("m1 A <b>Tale (1999)", ["Romance", "Action"])
    assert [one["text"] for one in first["found"]] == ["LOVE"]


def test_what_cannot_be_served_is_said(address: str, project_with_model: Path) -> None:
    port = address.rpartition(":")[2]
    done = stage("demo", "--no-browser", "--port", port, cwd=project_with_model, fails=True)
    assert done.stderr == f"error: 127.0.0.1, port {port}: Address already in use; another can be given with --port\n"
    done = stage("demo", "--port", str(free_port()), "--model", "none.pt", cwd=project_with_model, fails=True)
    assert done.stderr == "error: none.pt: no such model file; `dvc repro` trains one\n"
    assert done.stdout == ""


# ---- In a browser


@pytest.fixture
def requests(page: Page) -> Iterator[list[str]]:
    """The addresses that the page asks for, in order; it is an error for its script to fail."""
    asked: list[str] = []
    failed: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    def note_failure(error: Error) -> None:
        failed.append(str(error))

    page.on("request", note)
    page.on("pageerror", note_failure)
    yield asked
    assert failed == []


def hand_over(page: Page, kind: str, files: list[tuple[str, bytes]], text: str = "") -> None:
    """Drop or paste files, or the address of a picture."""
    script = """([files, text]) => {
        const data = new DataTransfer();
        const bytes = (content) => Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
        for (const [name, content] of files) data.items.add(new File([bytes(content)], name));
        if (text) data.setData("text/uri-list", text);
        return data;
    }"""
    data = page.evaluate_handle(script, [[[name, base64.b64encode(content).decode()] for name, content in files], text])
    if kind == "drop":
        page.dispatch_event("body", "dragenter", {"dataTransfer": data})
        expect(page.locator("body")).to_have_class(re.compile("over"))
        page.dispatch_event("body", "drop", {"dataTransfer": data})
        expect(page.locator("body")).not_to_have_class(re.compile("over"))
    else:
        paste = "data => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))"
        page.evaluate(paste, data)


def explained(page: Page, number: int) -> None:
    expect(page.locator(".card[data-explained]")).to_have_count(number, timeout=120_000)


def test_a_poster_is_dropped_and_its_genres_are_pointed_at(address: str, page: Page, requests: list[str]) -> None:
    name = "<img src=x onerror=alert(1)>.jpg"
    page.goto(address)
    expect(page.get_by_text("Drop posters here, or paste one")).to_be_visible()
    expect(page.locator("#formats")).to_have_text("JPEG, PNG, GIF, WebP, BMP or TIFF, of up to 20 MB")
    hand_over(page, "drop", [(name, poster("BLOOD"))])
    explained(page, 1)
    card = page.locator(".card")
    verdict = card.locator("h2").inner_text()
    assert set(verdict.split(", ")) <= set(GENRES)
    expect(page.locator("[aria-live]")).to_have_text(f"{name}: {verdict}.")
    expect(card.locator(".name")).to_have_text(name)
    expect(card.locator(".found")).to_contain_text("“BLOOD”Horror +")
    expect(page.get_by_text("Point at a genre to see what speaks for it, on one scale for all.")).to_be_visible()
    shows, boxes = re.compile("shows"), card.locator(".boxes span")
    horror = card.get_by_role("button", name="Horror")
    said = horror.inner_text().replace("\n", "")
    assert re.fullmatch(r"Horror ?\d+\.\d %, (reaches|below) its threshold of 1\.0 %", said), said

    horror.hover()
    expect(card).to_have_class(shows)
    expect(boxes).to_have_count(1)
    place = boxes.evaluate("box => [box.offsetTop / box.parentNode.offsetHeight, box.offsetLeft / box.parentNode.offsetWidth]")
    assert 0.65 < place[0] < 0.8
    assert 0.05 < place[1] < 0.4
    assert card.locator("canvas").evaluate("c => c.width + ' ' + c.height") == "32 40"
    pixels = card.locator("canvas").evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, 32, 40).data)")
    assert len(set(pixels[3::4])) > 1 or len(set(pixels[0::4])) == 1
    page.mouse.move(1, 1)
    expect(card).not_to_have_class(shows)
    expect(boxes).to_have_count(0)

    # The same with the keyboard.
    page.get_by_role("button", name="Clear").focus()
    page.keyboard.press("Tab")
    expect(card).to_have_class(shows)
    page.keyboard.press("Enter")
    first = card.get_by_role("button").first
    expect(first).to_have_attribute("aria-pressed", "true")
    expect(first).to_be_focused()
    expect(page.locator("[aria-live]")).to_have_text(re.compile(rf"^{verdict.split(', ')[0]}: .*speaks for it"))
    page.keyboard.press("Escape")
    expect(first).to_have_attribute("aria-pressed", "false")
    expect(card).not_to_have_class(shows)

    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.get_by_role("button", name="Choose posters")).to_be_focused()
    hosts = {re.sub(r"^blob:.*", "blob:", url).removeprefix(address) for url in requests}
    assert hosts == {"/", "/demo.css", "/demo.js", "/about", "/posters", "blob:"}


def test_bad_files_are_answered_beside_good_ones(address: str, page: Page, requests: list[str]) -> None:
    page.goto(address)
    expect(page.locator("#formats")).not_to_be_empty()
    hand_over(page, "drop", [("bad.jpg", b"text"), ("good.tif", poster("GUNS", "TIFF"))])
    explained(page, 1)
    expect(page.locator(".failed")).to_contain_text(f"bad.jpg{NOT_AN_IMAGE}")
    # What a browser cannot show is shown as the server saw it.
    assert page.locator(".done img").evaluate("image => image.naturalWidth") == 240
    before = len([url for url in requests if url.endswith("/posters")])
    page.set_input_files("#files", {"name": "huge.jpg", "mimeType": "image/jpeg", "buffer": bytes(MAX_BYTES + 1)})
    expect(page.locator(".failed").first).to_contain_text(f"huge.jpg{TOO_LARGE}")
    assert len([url for url in requests if url.endswith("/posters")]) == before
    hand_over(page, "drop", [], "http://example.com/poster.jpg")
    expect(page.get_by_role("alert")).to_have_text("Addresses are not opened; save the poster and drop its file.")
    hand_over(page, "paste", [], "http://example.com/poster.jpg")
    expect(page.get_by_role("alert")).to_have_text("There is no picture to paste; copy a picture, not its address.")
    hand_over(page, "paste", [("image.png", poster("LOVE", "PNG"))])
    explained(page, 2)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_twenty_posters_wait_their_turn(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#formats")).not_to_be_empty()
    names = [f"{i:02}.jpg" for i in range(20)]
    hand_over(page, "drop", [(name, jpeg((200, 10 * i, 90), i)) for i, name in enumerate(names)])
    expect(page.locator(".card").last).to_contain_text(re.compile(r"Waiting for \d+ others"))
    expect(page.locator("#counted")).to_have_text(re.compile(r"\d+ of 20 posters read"))
    explained(page, 20)
    assert page.locator(".card .name").all_inner_texts() == names
    requests = "performance.getEntriesByType('resource').filter(entry => entry.name.endsWith('/posters'))"
    times = sorted(page.evaluate(f"{requests}.map(entry => [entry.startTime, entry.responseEnd])"))
    assert len(times) == 20
    assert all(begin >= end - 1 for (_, end), (begin, _) in pairwise(times))
    expect(page.locator("#progress")).to_be_hidden()
    # A later one comes first.
    hand_over(page, "drop", [("later.jpg", jpeg((10, 20, 30)))])
    explained(page, 21)
    expect(page.locator(".card .name").first).to_have_text("later.jpg")


def test_a_server_that_is_gone_is_said(project_with_model: Path, page: Page) -> None:
    command = (sys.executable, "-m", "stages.demo", "--no-browser", "--port", "{port}")
    with serving(*command, cwd=project_with_model, healthy="/about") as (address, process):
        page.goto(address)
        expect(page.locator("#formats")).not_to_be_empty()
        process.terminate()
        assert process.wait(30) == 0
        hand_over(page, "drop", [("poster.jpg", poster("LOVE"))])
        expect(page.locator(".failed")).to_contain_text("The server does not answer; is its command still running?")


def test_the_page_reads_well_everywhere(address: str, page: Page) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for width, scheme in ((390, "dark"), (390, "light"), (1440, "dark"), (1440, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.goto(address)
        page.get_by_role("button", name="Take a test poster").click()
        explained(page, 1)
        expect(page.locator(".truth")).to_have_text("True genres: Romance, Action")
        assert page.locator(".true").count() == 2
        page.get_by_role("button", name="Romance").hover()
        page.screenshot(path=SCREENSHOTS / f"demo_{width}_{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        texts = "Array.from(document.querySelectorAll('p, li, h3, span'))"
        sizes = page.evaluate(f"{texts}.map(element => parseFloat(getComputedStyle(element).fontSize))")
        assert min(sizes) >= 12
        assert page.evaluate("Array.from(document.querySelectorAll('button:not([hidden])')).every(e => e.offsetHeight >= 40)")
        # Text is readable: the darker of ink and page is at most a third as bright as the other.
        ink, ground = page.evaluate("['color', 'backgroundColor'].map(key => getComputedStyle(document.body)[key])")
        shades = sorted(sum(map(int, re.findall(r"\d+", color))) for color in (ink, ground))
        assert 3 * shades[0] < shades[1]
        assert (sum(map(int, re.findall(r"\d+", ground))) < 300) == (scheme == "dark")
        assert page.evaluate("getComputedStyle(document.querySelector('.poster img')).transitionDuration") in ("0s", "0s, 0s")
