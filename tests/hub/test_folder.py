"""A Hub folder as its users load it: in a process that knows nothing of this repository, without a network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import pipeline

import configuration_tsn
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT, TEXTS, make_model, make_tokenizer
from tests.runtime.test_pipeline import assert_same
from tsn.hub.files import RUNTIME_FILES
from tsn.hub.folder import write_hub_folder

CODE = {
    "configuration_tsn.py",
    "modeling_tsn.py",
    "graph_tsn.py",
    "onnx_tsn.py",
    "openvino_tsn.py",
    "tagging_tsn.py",
    "chunking_tsn.py",
    "pipeline_tsn.py",
}
INPUTS = [*TEXTS, "", " ".join(TEXTS)]

# One process does all of it, as it takes seconds to import torch. Each step answers with its result or its error.
SCRIPT = """
import builtins, importlib.util, json, socket, sys

def no_network(*args, **kwargs):
    raise AssertionError("the network was asked for")

def connect(self, address, connect=socket.socket.connect):
    return connect(self, address) if self.family == socket.AF_UNIX else no_network()  # workers talk over AF_UNIX

socket.socket.connect, socket.getaddrinfo = connect, no_network
assert not any(importlib.util.find_spec(name) for name in ("configuration_tsn", "modeling_tsn", "pipeline_tsn"))
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline
torch.set_num_threads(1)
plan = json.load(sys.stdin)
texts, task = plan["texts"], "topic-sentiment-ner"

def run(folder, **parameters):
    pipe = pipeline(task, model=folder, trust_remote_code=True)
    assert type(pipe).__module__.startswith("transformers_modules."), type(pipe).__module__
    assert {p.dtype for p in pipe.model.parameters()} == {torch.float32}, "fp16 is slow on a CPU"
    return pipe(texts, **parameters)

def resave():
    model = AutoModel.from_pretrained(plan["hub"], trust_remote_code=True)
    model.save_pretrained(plan["resaved"])
    again = AutoModel.from_pretrained(plan["resaved"], trust_remote_code=True)
    config = AutoConfig.from_pretrained(plan["resaved"], trust_remote_code=True)
    assert config.sentiment_labels == model.config.sentiment_labels
    before, after = model.state_dict(), again.state_dict()
    return list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)

def resave_with_tokenizer():
    AutoModel.from_pretrained(plan["hub"], trust_remote_code=True).save_pretrained(plan["together"])
    AutoTokenizer.from_pretrained(plan["hub"]).save_pretrained(plan["together"])
    return run(plan["together"])

def alone():
    asked = []
    builtins.input = lambda prompt="": asked.append(prompt) or "n"
    model = AutoModel.from_pretrained(plan["hub"], trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(plan["hub"])
    output = model(**tokenizer("The screen is great.", return_tensors="pt"))
    assert not asked, asked
    config = AutoConfig.from_pretrained(plan["hub"], trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules.")  # the folder's own code all the same
    return list(output.sentiment_logits.shape)

def resave_pipeline():
    pipeline(task, model=plan["hub"], trust_remote_code=True).save_pretrained(plan["repiped"])
    return run(plan["repiped"])

steps = {"hub": lambda: run(plan["hub"]), "batches": lambda: run(plan["hub"], batch_size=4, num_workers=1),
         "alone": alone, "copy": lambda: run(plan["copy"]), "resave": resave,
         "resave_with_tokenizer": resave_with_tokenizer, "resave_pipeline": resave_pipeline,
         "plain": lambda: run(plan["plain"]), "new_heads": lambda: run(plan["new_heads"]),
         **{name: lambda folder=folder: run(folder) for name, folder in plan["broken"].items()}}
answers = {}
for name, step in steps.items():
    try:
        answers[name] = step()
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
    print("END OF", name, file=sys.stderr)
print("ANSWERS" + json.dumps(answers))
"""


def check_code_references(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["auto_map"] == {"AutoConfig": "configuration_tsn.TSNConfig", "AutoModel": "modeling_tsn.TSNModel"}
    impl = {"impl": "pipeline_tsn.TSNPipeline", "pt": ["AutoModel"], "type": "text"}
    assert config["custom_pipelines"] == {"topic-sentiment-ner": impl}


def edit_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def broken_folders(hub, base):
    """Copies of the folder, each damaged in its own way."""

    def damaged(name):
        return Path(shutil.copytree(hub, base / name))

    for head in ("topic_head", "ner_head", "sentiment_head"):
        edit_weights(damaged(head), lambda w, head=head: {k: v for k, v in w.items() if not k.startswith(head)})
    edit_weights(damaged("layer"), lambda w: {k: v for k, v in w.items() if "layer.1." not in k})
    edit_json(damaged("classes") / "config.json", sentiment_labels=["bad", "good"])
    edit_json(damaged("types") / "config.json", ner_labels=["O", "B-PER", "I-PER", "E-PER", "S-PER"])
    edit_json(damaged("scheme") / "config.json", ner_labels=["O", "B-PER", "I-PER"])
    short = damaged("truncated") / "model.safetensors"
    short.write_bytes(short.read_bytes()[:-500])
    weightless = damaged("weightless")
    (weightless / "model.safetensors").unlink()
    return {path.name: str(path) for path in base.iterdir()}


@pytest.fixture(scope="module")
def fresh(hub_folder, backbone_folder, tmp_path_factory):
    """Answers of a fresh process, by step."""
    base = tmp_path_factory.mktemp("fresh")
    for name in ("cwd", "broken"):
        (base / name).mkdir()
    folders = {
        "hub": hub_folder,
        "copy": base / "a copy, v1.0",
        "resaved": base / "resaved",
        "repiped": base / "repiped",
        "together": base / "together",
        "plain": base / "plain",
        "new_heads": base / "new_heads",
    }
    shutil.copytree(hub_folder, folders["copy"])
    TSNModel.from_pretrained(hub_folder).save_pretrained(folders["plain"])
    TSNModel.from_backbone(str(backbone_folder)).save_pretrained(folders["new_heads"])
    for name in ("plain", "new_heads"):
        make_tokenizer().save_pretrained(folders[name])
    plan = {name: str(folder) for name, folder in folders.items()}
    plan |= {"texts": INPUTS, "broken": broken_folders(hub_folder, base / "broken")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(base / "home"), "HF_MODULES_CACHE": str(base / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=base / "cwd",
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.partition("ANSWERS")[2]), "folders": folders, "stderr": done.stderr}


@pytest.fixture(scope="module")
def expected(hub_folder):
    """What the stored weights, rounded to fp16, give in this process."""
    tokenizer = make_tokenizer()
    model = make_model("bert", len(tokenizer))
    model.load_state_dict({name: weight.half().float() for name, weight in model.state_dict().items()})
    return TSNPipeline(model, tokenizer)(INPUTS)


@pytest.mark.parametrize("step", ["hub", "batches", "copy", "plain", "resave_with_tokenizer", "resave_pipeline"])
def test_a_fresh_process_gives_the_same(fresh, expected, step):
    assert isinstance(fresh[step], list), fresh[step]
    assert_same(fresh[step], expected)
    assert any(result["entities"] for result in fresh[step])


def test_new_heads_saved_with_a_tokenizer_load(fresh):
    assert isinstance(fresh["new_heads"], list) and len(fresh["new_heads"]) == len(INPUTS), fresh["new_heads"]


def test_the_model_alone_asks_nothing(fresh):
    assert fresh["alone"] == [1, 3], fresh["alone"]


def test_nothing_is_warned_of(fresh):
    printed = fresh["stderr"].partition("END OF hub")[0]
    for word in ("initialized", "not used", "nexpected", "deprecat", "arning", "Traceback"):
        assert word not in printed, printed


def test_a_loaded_model_saves_again(fresh):
    assert fresh["resave"] is True, fresh["resave"]
    for name in ("resaved", "repiped", "together", "plain", "new_heads"):
        folder = fresh["folders"][name]
        check_code_references(folder)
        for file in CODE:
            assert (folder / file).read_bytes() == (ROOT / file).read_bytes()


def test_a_model_saved_into_the_folder_of_its_code_leaves_the_code(hub_folder, tmp_path, monkeypatch):
    """As `model.save_pretrained(".")` in a clone does."""
    shutil.copytree(hub_folder, tmp_path / "clone")
    monkeypatch.setattr(configuration_tsn, "__file__", str(tmp_path / "clone" / "configuration_tsn.py"))
    TSNModel.from_pretrained(hub_folder).save_pretrained(tmp_path / "clone")
    for file in CODE:
        assert (tmp_path / "clone" / file).read_bytes() == (ROOT / file).read_bytes()


@pytest.mark.parametrize(
    "name, words",
    [
        *((head, [head, "lacks"]) for head in ("topic_head", "ner_head", "sentiment_head")),
        ("layer", ["layer.1", "lacks"]),
        ("classes", ["size"]),
        ("types", ["size"]),
        ("scheme", ["BIOES"]),
        ("truncated", ["damaged"]),
        ("weightless", ["model.safetensors"]),
    ],
)
def test_a_damaged_checkpoint_is_an_error(fresh, name, words):
    """transformers would draw what is missing at random, and the model would answer at random."""
    assert isinstance(fresh[name], str), "it answered"
    for word in words:
        assert word in fresh[name], fresh[name]


def test_files_of_the_folder(hub_folder):
    assert set(RUNTIME_FILES) >= CODE
    found = {path.name for path in hub_folder.iterdir()} - {"special_tokens_map.json"}  # which transformers 5 left
    assert found == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", *RUNTIME_FILES}
    for name in RUNTIME_FILES:
        assert (hub_folder / name).read_bytes() == (ROOT / name).read_bytes()


def test_configuration_of_the_folder(hub_folder):
    check_code_references(hub_folder)
    config = json.loads((hub_folder / "config.json").read_text("utf-8"))
    assert config["model_type"] == "tsn" and config["architectures"] == ["TSNModel"]
    assert config.get("dtype", config.get("torch_dtype")) == "float32"
    assert config["backbone_config"]["model_type"] == "bert"
    tokenizer = json.loads((hub_folder / "tokenizer_config.json").read_text("utf-8"))
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"  # which both versions of transformers know
    assert tokenizer["model_max_length"] == 64
    for name in ("config.json", "tokenizer_config.json"):
        text = (hub_folder / name).read_text("utf-8")
        for trace in ("name_or_path", "is_local", "local_files_only", "trust_remote_code", "_commit_hash", str(ROOT)):
            assert trace not in text, name
        assert str(hub_folder) not in text and str(Path.home()) not in text


def test_weights_of_the_folder(hub_folder):
    with safe_open(hub_folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
        assert {str(weights.get_tensor(name).dtype) for name in names} == {"torch.float16"}
        assert weights.metadata()["format"] == "pt"  # transformers refuses a file without it
    assert {name.split(".")[0] for name in names} == {"backbone", "topic_head", "ner_head", "sentiment_head"}
    assert not [path for path in hub_folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]


def test_writing_twice_gives_the_same_and_leaves_the_model(hub_folder, tmp_path):
    tokenizer = make_tokenizer()
    model = make_model("bert", len(tokenizer))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for _ in range(2):
        write_hub_folder(model, tokenizer, tmp_path / "out" / "new")
    for path in hub_folder.iterdir():
        assert (tmp_path / "out" / "new" / path.name).read_bytes() == path.read_bytes(), path.name
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())


def test_an_interrupted_writing_leaves_a_whole_model_or_none(hub_folder, tmp_path, monkeypatch):
    """Stopped before any of its files is put in its place, over a model that was there."""
    tokenizer = make_tokenizer()
    new = make_model("distilbert", len(tokenizer), pooling="cls")
    files, replace = len([p for p in hub_folder.iterdir() if p.is_file()]), os.replace
    for stop in range(files):
        folder, left = tmp_path / str(stop), [stop]
        shutil.copytree(hub_folder, folder)
        for path in folder.iterdir():  # what is the same already is left alone
            if path.name != "model.safetensors":
                path.write_bytes(path.read_bytes() + b"\n")

        def stopping(source, target, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            replace(source, target)

        monkeypatch.setattr("tsn.hub.folder.os.replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_hub_folder(new, tokenizer, folder)
        monkeypatch.undo()
        with pytest.raises((OSError, ValueError)):
            TSNModel.from_pretrained(folder)
        (folder / ".writing-left").mkdir()  # what SIGKILL leaves
        write_hub_folder(new, tokenizer, folder)
        assert TSNModel.from_pretrained(folder).config.pooling == "cls"
        assert {p.name for p in folder.iterdir()} == {p.name for p in hub_folder.iterdir()}


@pytest.mark.parametrize("folder", [ROOT, ROOT / "small"], ids=["full", "small"])
def test_the_shipped_checkpoints(folder):
    shipped = pipeline("topic-sentiment-ner", model=str(folder), trust_remote_code=True)
    text = "The battery life is superb, but the customer service of Acme in Madrid was slow, says Maria Gomez."
    found = {(entity["entity_group"], entity["word"]) for entity in shipped(text)["entities"]}
    assert {("PER", "Maria Gomez"), ("LOC", "Madrid"), ("ORG", "Acme")} <= found


def test_the_small_checkpoint_is_the_full_one_with_half_the_layers():
    """Its code is links to this repository's, its tokenizer the same; depth and calibration differ, nothing else."""
    small, names = ROOT / "small", RUNTIME_FILES
    assert {path.name for path in small.glob("*.py")} == set(names)
    assert all((small / name).resolve() == ROOT / name for name in names)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (small / name).read_bytes() == (ROOT / name).read_bytes()
    full, half = (json.loads((folder / "config.json").read_text()) for folder in (ROOT, small))
    assert 2 * half["backbone_config"].pop("num_hidden_layers") == full["backbone_config"].pop("num_hidden_layers")
    for config in (full, half):
        del config["temperatures"]
    assert half == full


def test_what_is_there_already_is_left_alone(tmp_path, hub_folder):
    """A link to the code, where the code is the same, is still a link afterwards."""
    folder = tmp_path / "model"
    shutil.copytree(hub_folder, folder)
    (folder / "tagging_tsn.py").unlink()
    (folder / "tagging_tsn.py").symlink_to(ROOT / "tagging_tsn.py")
    (folder / "chunking_tsn.py").write_text("# an older version")
    write_hub_folder(make_model(), make_tokenizer(), folder)
    assert (folder / "tagging_tsn.py").is_symlink()
    assert (folder / "chunking_tsn.py").read_bytes() == (ROOT / "chunking_tsn.py").read_bytes()
