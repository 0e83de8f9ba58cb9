"""`tsn/hub/files.py`: what may be published and what may not; the rest is in `test_release.py`."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tsn.hub.files import check_content, hub_card, linked_files, read_record


@pytest.mark.parametrize(
    "text",
    [
        *("hf_" + "a" * 34, "token=api_org_" + "b" * 34, "ghp_" + "c" * 36, "github_pat_" + "d" * 40),
        *("AKIA" + "A" * 16, "'sk-" + "e" * 40, "-----BEGIN RSA PRIVATE KEY-----"),
        *(
            '"/home/ana/model"',
            "a:/home/ana/x",
            "file:///data/ana",
            r"C:\Users\ana",
            r'"C:\\Users\\ana"',
            "C:/Users/ana/x",
        ),
        *("/Users/ana/model", f"{Path.home()}/x", f"see {ROOT}/model.py"),
    ],
)
def test_what_must_not_be_published_is_found(text):
    for content in (text, f"before {text} after", f"\0\1{text}\0"):
        with pytest.raises(ValueError, match="config.json holds"):
            check_content("config.json", content.encode())


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://example.org/home/page",
            "~/home/x",
            "./home/x",
            "out/home/x",
            "hf_hub_download",
            "half_" + "a" * 30,
        ),
        *("task-" + "a" * 40, "/backbone/encoder/layer.0", "Users: many", "a/Users/b", "/usr/bin/env"),
    ],
)
def test_what_may_be_published_passes(text):
    check_content("README.md", text.encode())


def test_records_say_which_file_lacks_what(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"a": {"b": 1}}', "utf-8")
    assert read_record(path)["a"]["b"] == 1
    with pytest.raises(ValueError, match="results.json has no 'c'"):
        read_record(path)["a"]["c"]
    path.write_text('{"a": ', "utf-8")
    with pytest.raises(ValueError, match="results.json is damaged"):
        read_record(path)


def test_recorded_results_keep_their_names_on_the_hub():
    """They lie in one folder here; a link to one is renamed with it, code and other links are not."""
    card = """[a](results/eval_results.json) ![b](results/quality.png "title") [c](results/int8/eval_results.json#top)
<img src="results/length.png"> `[d](results/x.png)` [e](https://a.b/results/x.png) [f](other.png)
"""
    names = ["eval_results.json", "bench/results/quality.png", "bench/results/int8/eval_results.json"]
    assert linked_files(hub_card(card)) == [*names, "bench/results/length.png", "other.png"]
    assert "`[d](results/x.png)` [e](https://a.b/results/x.png)" in hub_card(card)
