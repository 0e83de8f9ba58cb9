"""`tsn/hub/files.py`: what may be published and what may not; the rest is in `test_release.py`."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tsn.hub.files import check_content, hub_page, linked_files, read_pages, read_record, release_files


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


def test_links_of_all_kinds_are_seen_and_code_is_not_one():
    card = """![a](x.png "title") [b](<y.json>) <img alt='' src="z.png">
`f(a)[0](b)` [c](HTTPS://a.b/c) [d](#e) [f](m@x)
```python
x[0](y)
```
"""
    assert linked_files(card.replace(" [f](m@x)", "")) == ["x.png", "y.json", "z.png"]
    with pytest.raises(ValueError, match="m@x"):
        linked_files(card)


@pytest.mark.parametrize(
    "target", ["../../secret.md", "/etc/x.md", "../.env", "../tsn/paths.py", "x.md/../../../y.md", r"..\x.md"]
)
def test_a_page_links_to_files_of_its_folder(target):
    assert linked_files("[a](../x.png) [b](y.md#z) [c](../LICENSE)", "docs/a.md") == ["x.png", "docs/y.md", "LICENSE"]
    with pytest.raises(ValueError, match="docs/a.md links to "):
        linked_files(f"[a]({target})", "docs/a.md")


def test_recorded_results_keep_their_names_on_the_hub():
    """They lie in one folder here; a link to one is renamed with it, code and other links are not."""
    card = """[a](results/eval_results.json) ![b](results/quality.png "title") [c](results/int8/eval_results.json#top)
<img src="results/length.png"> `[d](results/x.png)` [e](https://a.b/results/x.png) [f](other.png)
"""
    names = ["eval_results.json", "bench/results/quality.png", "bench/results/int8/eval_results.json"]
    assert linked_files(hub_page(card)) == [*names, "bench/results/length.png", "other.png"]
    assert "`[d](results/x.png)` [e](https://a.b/results/x.png)" in hub_page(card)


def test_links_of_the_docs_lead_to_the_files_that_travel():
    """Each link of a page as it stands on the Hub is a file of the release, whichever page it stands on."""
    page = "[a](../results/eval_results.json#x) ![b](../results/int8/a.png) [c](usage.md) [d](../README.md)"
    assert hub_page(page, "docs/results.md") == (
        "[a](../eval_results.json#x) ![b](../bench/results/int8/a.png) [c](usage.md) [d](../README.md)"
    )
    pages = read_pages(ROOT)
    files = {*release_files(ROOT, pages), "README.md"}
    assert {"docs/results.md", "bench/results/throughput.png", "LICENSE", "LICENSE.md"} <= files
    for name, text in pages.items():
        assert name in files and set(linked_files(hub_page(text, name), name)) <= files


def test_a_page_that_is_a_link_out_of_the_folder_does_not_travel(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "folder" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "folder" / name).touch()
    (tmp_path / "folder" / "results").mkdir()
    (tmp_path / "folder" / "results" / "eval_results.json").touch()
    (tmp_path / "secret.md").write_text("secret", "utf-8")
    (tmp_path / "folder" / "page.md").symlink_to(tmp_path / "secret.md")
    (tmp_path / "folder" / "README.md").write_text("[a](page.md)", "utf-8")
    with pytest.raises(ValueError, match="page.md is a link that leaves"):
        release_files(tmp_path / "folder", read_pages(tmp_path / "folder"))
