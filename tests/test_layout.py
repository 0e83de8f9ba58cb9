"""Which file may import which: rooms in one direction, thin commands, runtime files that travel alone."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

COMMANDS = ("train.py", "eval.py", "quantize.py", "score.py", "release.py", "serve.py")
RUNTIME = (
    *("configuration_tsn", "modeling_tsn", "tagging_tsn", "chunking_tsn", "pipeline_tsn"),
    *("graph_tsn", "onnx_tsn", "openvino_tsn"),
)
SERVING = ("handler", "app", "highlight_tsn")
# A room to what it may import of others: a room, or one file of it. Files straight under tsn/ are open to all.
ALLOWED = {
    "data": (),
    "evaluation": ("data",),
    "training": ("data", "evaluation", "hub.folder"),
    "quantization": ("data", "evaluation", "hub.folder"),
    "scoring": ("data",),
    "serving": ("scoring.workers",),
    "hub": (),
}
PACKAGES = {"torch", "transformers", "numpy"}  # that whoever loads the model has


def imports(path, lazy=True):
    """Full names of what a file imports, such as `tsn.data.readers`; with `lazy=False` outside functions and `try`."""
    found, left = [], [ast.parse(path.read_text("utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            modules = [alias.name for alias in node.names if _is_module(base, alias.name)]
            found += [f"{base}.{name}" for name in modules] or [base]
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.Try)):
            left += ast.iter_child_nodes(node)
    return found


def _is_module(base, name):
    folder = ROOT.joinpath(*base.split(".")) if base and base[0] != "." else None
    return folder is not None and ((folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists())


def rooms(path):
    """What a file imports of the rooms of `tsn`, as `room` or `room.file`."""
    names = [name.removeprefix("tsn.") for name in imports(path) if name.startswith("tsn.")]
    return [name for name in names if name.partition(".")[0] in ALLOWED]


def files_of(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def test_every_room_is_in_the_table_and_says_what_it_is_for():
    assert {path.parent.name for path in (ROOT / "tsn").glob("*/__init__.py")} == set(ALLOWED)
    for path in (ROOT / "tsn").rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_before_it(room):
    for path in files_of(f"tsn/{room}"):
        for name in rooms(path):
            parts = name.split(".")
            allowed = {room, *ALLOWED[room]} & {parts[0], ".".join(parts[:2])}
            assert allowed, f"{path.relative_to(ROOT)} imports tsn.{name}"


def test_shared_files_import_no_room():
    for path in (ROOT / "tsn").glob("*.py"):
        assert not rooms(path), path.name


def test_no_two_files_import_each_other():
    """Neither directly nor round about: the rooms' table has `hub.folder` before rooms that lie before `hub`."""
    files = [*files_of("tsn"), *ROOT.glob("*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    edges = {name: {other for other in imports(path) if other in modules} for name, path in modules.items()}
    while leaves := [name for name, others in edges.items() if not others & edges.keys()]:
        for name in leaves:
            del edges[name]
    assert not edges


def test_nothing_but_tests_imports_the_benchmark_or_a_command():
    commands = {name.removesuffix(".py") for name in COMMANDS}
    for path in [*ROOT.glob("*.py"), *files_of("tsn"), *files_of("scripts"), *files_of("examples")]:
        assert not {name.partition(".")[0] for name in imports(path)} & {"bench", "tests", *commands}, path
    for path in files_of("bench"):
        assert not {name.partition(".")[0] for name in imports(path)} & {"tests", *commands}, path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_thin(name):
    lines = (ROOT / name).read_text("utf-8").splitlines()
    assert len(lines) <= 80 and lines[0].startswith('"""')


def test_the_root_holds_commands_and_what_travels_and_nothing_else():
    assert {path.name for path in ROOT.glob("*.py")} == {*COMMANDS, *(f"{name}.py" for name in (*RUNTIME, *SERVING))}


@pytest.mark.parametrize("name", RUNTIME)
def test_runtime_files_travel_alone(name):
    path, known = ROOT / f"{name}.py", {*PACKAGES, *RUNTIME, *sys.stdlib_module_names}
    needed = {module.removeprefix(".").partition(".")[0] for module in imports(path)}
    assert needed <= known | {"onnxruntime", "openvino"}
    outside = {"onnxruntime", "openvino"} & set(imports(path, lazy=False))
    assert not outside, "what is not in a `try` counts as a package to have"


@pytest.mark.parametrize("name", SERVING)
def test_serving_files_need_no_room(name):
    assert not [module for module in imports(ROOT / f"{name}.py") if module.partition(".")[0] in ("tsn", "bench")]


def test_heads_are_those_of_the_runtime():
    from configuration_tsn import TASKS
    from graph_tsn import OUTPUTS
    from tsn import heads

    assert tuple(TASKS) == heads.HEADS == tuple(heads.MAIN_METRICS) and list(OUTPUTS) == heads.OUTPUTS


def test_a_saved_model_and_a_release_carry_the_same_runtime_files():
    """They are named twice: the runtime travels alone, and a release should not have to load torch."""
    from configuration_tsn import RUNTIME_FILES
    from tsn.hub import files

    assert set(RUNTIME_FILES) == set(files.RUNTIME_FILES)


@pytest.mark.parametrize("name", ["MAIN_METRICS", "HEADS", "OUTPUTS", "ROOT"])
def test_what_rooms_share_is_defined_once(name):
    found = [
        path.name
        for path in files_of("tsn") + files_of("bench")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assign) and name in {target.id for target in node.targets if hasattr(target, "id")}
    ]
    assert found == ["paths.py" if name == "ROOT" else "heads.py"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [*COMMANDS, "-m tsn.hub.card", "-m tsn.evaluation.calibration", "-m bench.speed", "-m bench.curve"]
)
def test_help_says_how_to_call_it(command):
    done = subprocess.run(
        [sys.executable, *command.split(), "--help"], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert f"python {command} " in done.stdout and "usage: " in done.stdout
