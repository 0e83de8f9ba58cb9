"""`app.py` in a browser, as a person uses it: by mouse, by keyboard alone, on a phone's width.

Needs requirements/space.txt, playwright and Chromium: `make test-space`. Elsewhere these tests are skipped, but not
where the environment says CI and Gradio is installed.
"""

import csv
import gzip
import lzma
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="make test-space has an environment with Gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="make test-space has an environment with playwright")
from tests.conftest import ROOT  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM and "CI" not in os.environ, reason="Chromium is not installed"),
]
TEXT = "The battery life is superb, but the support of Acme in Madrid was slow, says Maria Gomez. <b>&"
REVIEWS = [["1", "The soup was cold, a disaster."], ["2", "Maria in Madrid\nwas lovely!"], ["3", ""], ["4", "=1+1"]]


def free_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The page, served by a process of its own with the model of this repository."""
    port, log = free_port(), tmp_path_factory.mktemp("app") / "log.txt"
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, str(ROOT / "app.py")], stdout=out, stderr=out, env=environment)
        try:
            for _ in range(300):
                assert process.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def page(browser, url):
    opened = browser.new_page(viewport={"width": 1100, "height": 1200})
    opened.set_default_timeout(30_000)
    opened.goto(url)
    opened.get_by_role("textbox", name="Text").wait_for()
    yield opened
    opened.close()


def expected(texts, **parameters):
    from transformers import pipeline

    onnx = {"model_kwargs": {"onnx_file": "model_quantized.onnx"}} if (ROOT / "onnx").exists() else {}
    return pipeline("topic-sentiment-ner", model=str(ROOT), trust_remote_code=True, **onnx)(texts, **parameters)


def test_a_text_is_shown_with_what_was_found(page):
    page.get_by_role("textbox", name="Text").fill(TEXT)
    page.get_by_role("button", name="Analyse (Shift + Enter)").click()
    page.locator(".tsn").wait_for()
    [result] = expected([TEXT])
    shown = page.locator(".tsn")
    assert shown.inner_text() == TEXT  # escaped, and nothing of the markup is text
    assert shown.locator("mark").all_inner_texts() == [e["word"] for e in result["entities"]]
    assert [m.get_attribute("data-type") for m in shown.locator("mark").all()] == [
        e["entity_group"] for e in result["entities"]
    ]
    assert [m.get_attribute("data-sentiment") for m in shown.locator("mark").all()] == [
        e["sentiment"] for e in result["entities"]
    ]
    assert "".join(shown.locator("u").all_inner_texts()) == "".join(t["word"] for t in result["topics"])
    assert [u.get_attribute("data-sentiment") for u in shown.locator("u").all()] == [
        t["sentiment"] for t in result["topics"]
    ]
    page.get_by_text(f"{result['sentiment']['scores']['negative']:.0%}").first.wait_for()
    assert page.get_by_role("heading", name=result["sentiment"]["label"]).count()
    assert not page.get_by_text("Sentiment by chunk").is_visible()


def test_the_long_example_shows_its_chunks_by_keyboard_alone(page):
    """Tab reaches the text, the button and the examples; Enter and Shift+Enter work them."""
    seen = []
    for _ in range(15):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.innerText || document.activeElement.tagName"))
        if seen[-1].startswith("The hotel"):
            break
    assert "TEXTAREA" in seen and any(text.startswith("Analyse") for text in seen), seen
    assert seen[-1].startswith("The hotel"), seen
    page.keyboard.press("Enter")
    page.get_by_text("Sentiment by chunk").first.wait_for()
    assert page.locator(".tsn-chunks li").count() > 1
    page.locator(".tsn").get_by_text("Air Atlantic").first.wait_for()
    box = page.get_by_role("textbox", name="Text")
    box.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("Madrid is lovely.")
    page.keyboard.press("Shift+Enter")
    page.locator(".tsn", has_text="Madrid is lovely.").wait_for()
    page.get_by_text("Sentiment by chunk").first.wait_for(state="hidden")


def set_threshold(page, name, value):
    """Types it again until the slider follows: a panel that has only just opened may not listen yet."""
    slider = page.get_by_label(f"range slider for {name}", exact=True)
    for _ in range(10):
        page.get_by_label(f"number input for {name}", exact=True).fill(value)
        page.keyboard.press("Tab")
        page.wait_for_timeout(200)
        if slider.input_value() == value:
            break
    playwright.expect(slider).to_have_value(value)


def test_thresholds_leave_spans_out(page):
    page.get_by_role("textbox", name="Text").fill(TEXT)
    page.get_by_role("button", name="Options").click()
    set_threshold(page, "threshold", "1")
    set_threshold(page, "entity_threshold", "1")
    page.get_by_role("button", name="Analyse (Shift + Enter)").click()
    page.locator(".tsn").wait_for()
    assert page.locator(".tsn mark").count() == page.locator(".tsn u").count() == 0
    set_threshold(page, "entity_threshold", "0")
    page.get_by_role("button", name="Analyse (Shift + Enter)").click()
    page.locator(".tsn mark").first.wait_for()
    assert page.locator(".tsn u").count() == 0


def test_it_fits_a_phone(browser, url, tmp_path):
    page = browser.new_page(viewport={"width": 375, "height": 800})
    page.goto(url)
    page.get_by_role("textbox", name="Text").fill(f"{TEXT} {'unbroken' * 40}")
    page.get_by_role("button", name="Analyse (Shift + Enter)").click()
    page.locator(".tsn mark").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator(".tsn").bounding_box()["width"] <= 375
    page.close()


def test_nothing_to_analyse_is_said(page):
    page.get_by_role("button", name="Analyse (Shift + Enter)").click()
    page.get_by_text("There is no text yet").wait_for()


def test_the_card_is_linked(page, url):
    address = page.get_by_role("link", name="Model card").get_attribute("href")
    with urllib.request.urlopen(url.rstrip("/") + address) as answer:
        assert answer.read() == (ROOT / "README.md").read_bytes()


def upload(page, path):
    page.get_by_role("tab", name="File").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Click to Upload").click()
    chooser.value.set_files(path)


def test_a_csv_file_comes_back_with_every_row(page, tmp_path):
    path = tmp_path / "reviews of May.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["id", "Review"], *REVIEWS])
    upload(page, path)
    playwright.expect(page.get_by_label("Column of the text")).to_have_value("Review")
    page.get_by_role("button", name="Analyse the file").click()
    page.get_by_text("4 rows.").wait_for()
    with page.expect_download() as download:
        page.locator("a[download$='.tsn.csv']").click()
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["id", "Review"] and header[2:4] == ["tsn_sentiment", "tsn_negative"]
    assert [row[:2] for row in rows] == REVIEWS
    for row, result in zip(rows, expected([text for _, text in REVIEWS])):
        assert row[2] == (result["sentiment"]["label"] or "")
        assert row[6] == "; ".join(f"{topic['word']} ({topic['sentiment']})" for topic in result["topics"])
        assert row[7] == "; ".join(f"{e['entity_group']}: {e['word']} ({e['sentiment']})" for e in result["entities"])


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", b"text,stars\nfine,3\nbad\n", "line 3: not a row of this CSV file (1 cells under"),
        ("a.csv", b'text\n"open', "line 2: not a row"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,text\na,b\n", "have the same name"),
        ("a.csv", b"text,tsn_topics\na,b\n", "have the same name"),
        ("a.txt", b"caf\xe9", "is not UTF-8 text (byte 3)"),
    ],
)
def test_files_that_cannot_be_read_are_named(page, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    upload(page, tmp_path / name)
    page.get_by_text(words).first.wait_for()


@pytest.mark.parametrize(
    "name, content, rows",
    [
        ("a.txt", "a\r\nb\u2028c\x85d\x0be\n\nf", [["a"], ["b\u2028c\x85d\x0be"], [""], ["f"]]),
        ("a.txt", "", []),
        ("a.csv", 'id,text\n1,"a\nb\u2028c"\n\n2,\n', [["1", "a\nb\u2028c"], ["2", ""]]),
        ("a.csv", "text\na\n\nb\n", [["a"], [""], ["b"]]),
        ("a.csv", "id;text\n1;a, b\n", [["1", "a, b"]]),
        ("a.tsv", "text\na, b\n", [["a, b"]]),
        ("a.jsonl", '{"id": 1, "text": "a"}\n\n{"text": null, "x": [2]}\n', [["1", "a", ""], ["", "", "[2]"]]),
        ("a.json", '[{"text": "a"},\n {"text": "b"}]', [["a"], ["b"]]),
        ("a.json", '{\n  "text": "a"\n}', [["a"]]),
        ("a.ndjson", '{"text": "\\ud800", "n": NaN}', [["\\ud800", ""]]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packing, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_no_row_is_lost_or_made(tmp_path, name, content, rows, encoding, packing, pack):
    from app import read_table

    path = tmp_path / f"{name}{packing}"
    path.write_bytes(pack(content.encode(encoding)))
    assert read_table(path)[1] == rows


def test_a_parquet_file_is_a_table(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from app import read_table

    pq.write_table(pa.table({"n": [1, None], "text": ["a", "b"]}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet") == (["n", "text"], [["1", "a"], ["", "b"]])


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", b'[{"text": "a"}', "line 1: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "row 2: not an object"),
        ("a.csv", b"PK\x03\x04", "an Office file, an archive or Parquet under another name"),
        ("a.csv.gz", gzip.compress(b"text\na\n", mtime=0)[:-4], "is damaged or incomplete"),
        ("a.csv.gz", gzip.compress(b"text\n" + b"a" * 20_000_000, mtime=0), "is larger than 20 MB"),
        ("a.txt", "a".encode("utf-16")[:-1], "is not UTF-16 text"),
        ("a.parquet", b"PAR1", "not a readable Parquet file"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, name, content, words):
    import gradio

    from app import read_table

    (tmp_path / name).write_bytes(content)
    with pytest.raises(gradio.Error, match=words):
        read_table(tmp_path / name)


def test_a_text_file_is_a_text_a_line(page, tmp_path):
    (tmp_path / "calls.txt").write_text("Madrid is lovely.\n\nThe soup was cold.\n", "utf-8")
    upload(page, tmp_path / "calls.txt")
    playwright.expect(page.get_by_label("Column of the text")).to_have_value("text")
    page.get_by_role("button", name="Analyse the file").click()
    page.get_by_text("3 rows.").wait_for()
    playwright.expect(page.locator("span", has_text="LOC: Madrid").first).to_be_visible()


def test_without_a_file_it_says_so(page):
    page.get_by_role("tab", name="File").click()
    page.get_by_role("button", name="Analyse the file").click()
    page.get_by_text("There is no file yet").wait_for()
