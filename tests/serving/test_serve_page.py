"""The server's page in a browser, without scripts. Needs Chromium: `make test-space`."""

import os
import shutil
from urllib.parse import urlencode

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("httptools", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")

from tests.conftest import TEXTS
from tests.serving.server import serving
from tsn.loading import load

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TEXT = f"{TEXTS[0]} <b>&\n\n{TEXTS[1]} <script>document.title = 'run'</script>"


@pytest.fixture(scope="module")
def server(onnx_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, onnx_folder, "--workers", 1, environment={"TSN_API_KEY": "s3cret"}) as server:
        yield server


@pytest.fixture(scope="module")
def page(server):
    playwright = pytest.importorskip("playwright.sync_api", reason="make test-space has playwright")
    if not CHROMIUM and "CI" not in os.environ:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 375, "height": 800})
        opened.set_default_timeout(60_000)
        opened.asked = []
        opened.on("request", lambda request: opened.asked.append(request.url))
        yield opened
        browser.close()


def test_a_text_is_shown_with_what_was_found(page, server, onnx_folder):
    page.goto(server.url)
    page.get_by_label("Text").fill(TEXT)
    page.get_by_label("Key").fill("s3cret")
    page.get_by_role("button", name="Analyse").click()
    page.locator(".tsn").wait_for()
    result = load(str(onnx_folder), "auto", 1, "cpu")(TEXT)
    shown = page.locator(".tsn")
    assert shown.text_content() == TEXT and page.get_by_label("Text").input_value() == TEXT
    assert shown.locator("mark").all_inner_texts() == [e["word"] for e in result["entities"]]
    assert [m.get_attribute("data-type") for m in shown.locator("mark").all()] == [
        e["entity_group"] for e in result["entities"]
    ]
    assert "".join(shown.locator("u").all_inner_texts()) == "".join(t["word"] for t in result["topics"])
    assert page.get_by_role("heading", name=f"Sentiment: {result['sentiment']['label']}").count() == 1
    assert page.title() != "run" and page.evaluate("document.documentElement.scrollWidth") <= 375
    assert all(url.startswith(server.url) for url in page.asked)  # nothing from elsewhere


def test_thresholds_and_keyboard(page, server):
    page.goto(server.url)
    page.locator("#text:focus").wait_for()  # Chromium puts the cursor there a moment after the page has loaded
    page.keyboard.type(TEXTS[0])
    page.keyboard.press("Tab")
    page.keyboard.type("1")
    page.keyboard.press("Tab")
    page.keyboard.type("1")
    page.keyboard.press("Tab")
    page.keyboard.type("s3cret")
    page.keyboard.press("Enter")
    page.locator(".tsn", has_text=TEXTS[0]).wait_for()
    assert page.locator(".tsn mark").count() == page.locator(".tsn u").count() == 0


@pytest.mark.parametrize(
    "form, status, words",
    [
        ({"text": "x"}, 401, "The key is not right."),
        ({"text": "x", "key": "s3cret\u00e9"}, 401, "The key is not right."),
        ({"text": " ", "key": "s3cret"}, 422, "There is no text yet"),
        ({"text": "\u200b", "key": "s3cret"}, 200, "no visible character"),
        ({"text": "x", "threshold": "<i>", "key": "s3cret"}, 422, "threshold must be a number from 0 to 1"),
        ({"text": "x", "threshold": "nan", "key": "s3cret"}, 422, "threshold must be a number from 0 to 1"),
        ({"text": "x" * 1_000_001, "key": "s3cret"}, 422, "(max_characters)"),
        ({"other": "x"}, 401, "The key is not right."),
    ],
)
def test_what_is_wrong_is_said(server, form, status, words):
    answer = server.client.post("/", content=urlencode(form))
    assert answer.status_code == status and words in answer.text and "<i>" not in answer.text
    assert "script" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_bytes_that_are_no_form(server):
    for body in (b"", b"\xff\0&&&==", b"text=%ff%00&key=s3cret", b"&".join([b"a=b"] * 1000), b"text=\xed\xa0\x80"):
        answer = server.client.post("/", content=body)
        assert answer.status_code in (200, 401, 422) and "<form" in answer.text
