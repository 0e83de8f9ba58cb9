"""What is written down twice agrees: versions, dependencies, the tree in README.md and the paths that pages name."""

import ast
import json
import re

import pytest
import semver
import tomllib
import yaml

from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")


def requirements(name):
    """A file of requirements, package to specifier."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return dict(re.match(r"([\w.-]+(?:\[\w+\])?)(.*)", line).groups() for line in lines if line and line[0] != "#")


def test_versions_agree():
    """That of pyproject.toml is the newest entry's, or a development version after it."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    entries = re.findall(r"^## \[(\d.*?)\] - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    versions = [semver.Version.parse(version) for version, _ in entries]
    assert versions == sorted(versions, reverse=True) and len(set(versions)) == len(entries) > 2
    release, development = re.fullmatch(r"(\d+\.\d+\.\d+)(\.dev\d+)?", PYPROJECT["project"]["version"]).groups()
    current = semver.Version.parse(release)
    assert current > versions[0] if development else current == versions[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], str(citation["date-released"])) == entries[0]


def test_dependencies_agree():
    pins, runtime = requirements("requirements.txt"), requirements("requirements/space.txt")
    for dependency in PYPROJECT["project"]["dependencies"]:
        name, specifier = re.match(r"([\w-]+)(.*)", dependency).groups()
        assert runtime.get(name, specifier) == specifier and pins[name].startswith("==")
    assert "dependencies" not in PYPROJECT["project"]["dynamic"]
    for extra in PYPROJECT["tool"]["setuptools"]["dynamic"]["optional-dependencies"].values():
        assert all(requirements(file) for file in extra["file"])
    assert set(re.findall(r"torch(==\S+)", (ROOT / "Makefile").read_text("utf-8"))) == {pins["torch"]}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    [ruff] = [hook["rev"] for hook in hooks if "ruff" in hook["repo"]]
    assert ruff == pins["ruff"].replace("==", "v")


def test_the_two_toolchains_differ_in_transformers_and_its_kin_alone():
    pinned, latest = requirements("requirements.txt"), requirements("requirements/latest.txt")
    assert all(pin.startswith("==") for pin in latest.values()) and latest.keys() < pinned.keys()
    differing = {name for name, pin in latest.items() if pin != pinned[name]}
    assert differing == {"transformers", "huggingface_hub", "datasets"}
    lint = {"ruff", "mypy", "types-PyYAML"}  # `make lint` runs on one of them
    assert pinned.keys() - latest.keys() == {"optimum[onnxruntime]", "optimum-onnx", *lint}


def test_an_installed_package_holds_the_runtime_files():
    from tsn.hub.files import RUNTIME_FILES

    modules = {f"{name}.py" for name in PYPROJECT["tool"]["setuptools"]["py-modules"]}
    assert {*RUNTIME_FILES, "highlight_tsn.py"} == modules


def test_the_tree_in_the_readme_shows_what_is_there():
    tree = re.search(r"```\n(configuration_tsn.*?)```", README, re.DOTALL)[1]
    listed = set(re.findall(r"\w+\.py|(?<!\w)\w+/", tree))
    there = {path.name for path in ROOT.glob("*.py")} | {
        f"{path.parent.name}/" for path in (ROOT / "tsn").glob("*/__init__.py")
    }
    assert there <= listed
    assert all((ROOT / name).exists() or (ROOT / "tsn" / name).exists() for name in listed)


def test_the_texts_people_see_first_are_everyday_texts():
    """Those of README.md and the Space; `make demo` reads its own. The Space's last one is long, to be cut."""
    everyday = [
        json.loads(line)["text"] for line in (ROOT / "examples/everyday.jsonl").read_text("utf-8").splitlines()
    ]
    [shown] = re.findall(r'^tsn\("(.*)"\)$', README, re.MULTILINE)
    tree = ast.parse((ROOT / "app.py").read_text("utf-8"))
    [examples] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "EXAMPLES"
    ]
    assert {shown, *examples[:-1]} <= set(everyday) and len(examples) > 3


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "tests/README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").iterdir())]
)
def test_paths_and_targets_that_pages_name_exist(page):
    text = (ROOT / page).read_text("utf-8")
    targets = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    code = "\n".join(re.findall(r"`[^`\n]+`|```sh\n.*?```", text, re.DOTALL))
    for line in re.findall(r"(?:`|^)make ([\w -]+)", code, re.MULTILINE):
        names = {name for name in line.split("  ")[0].split() if not name.isupper()}  # but not variables
        assert names <= targets, line
    for name in re.findall(r"`((?:tsn|tests|configs|scripts|requirements|bench|examples)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (tsn[\w.]+|bench[\w.]+|tests[\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for command in re.findall(r"\.venv/bin/python (\w+\.py)", text):
        assert (ROOT / command).exists(), command
