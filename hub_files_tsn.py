"""Which files a Hub repository of TSN holds: those named here and no others."""

import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASK = "topic-sentiment-ner"
RUNTIME_FILES = (
    *("configuration_tsn.py", "modeling_tsn.py", "onnx_tsn.py"),
    *("tagging_tsn.py", "chunking_tsn.py", "pipeline_tsn.py"),
)
SERVING_FILES = {  # name on the Hub: name here
    "handler.py": "handler.py",
    "requirements.txt": "requirements-endpoint.txt",  # what an Inference Endpoint installs beside what it has
    "app.py": "app.py",
    "highlight_tsn.py": "highlight_tsn.py",
    "requirements-space.txt": "requirements-space.txt",
}
_NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_OPTIONAL = ("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt")
_ONNX = re.compile(r"(model|model_quantized)\.onnx|ort_config\.json|quantization_report\.(json|md|png)")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_LINKED_TYPES = {".png", ".json", ".md"}
EVAL_RESULTS, QUANTIZATION_REPORT = "eval_results.json", "onnx/quantization_report.json"
_SECRETS = {
    "an access token": re.compile(rb"\bhf_[A-Za-z0-9]{20,}"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a path of a machine": re.compile(
        rb"(?<![\w.:/~-])/(?:home|root|Users|tmp|var|mnt|opt|srv|private|workspace|work|content|kaggle)/[\w.-]+"
        rb"|\b[A-Za-z]:\\{1,2}(?:Users|Documents|Windows|Temp)\b"
    ),
}


def release_files(folder, card):
    """The files of a release.

    Args:
        folder: Of the checkpoint; with `onnx/` and folders of adapters if it has any.
        card: The text of its README.md. The pictures and tables that it links to, by relative path, travel with it.

    Returns:
        dict: names on the Hub, in order, to paths here. The card is not among them.

    Raises:
        ValueError: a file is missing, or not a file of the folder, or its content is what must not be published.
    """
    folder = Path(folder).resolve()
    files = {name: HERE / name for name in RUNTIME_FILES}
    files |= {name: HERE / source for name, source in SERVING_FILES.items()}
    files |= {name: folder / name for name in _NEEDED}
    found = [name for name in _OPTIONAL if (folder / name).exists()]
    found += [f"onnx/{path.name}" for path in folder.glob("onnx/*") if _ONNX.fullmatch(path.name)]
    for config in folder.glob("*/adapter_config.json"):
        found += [f"{config.parent.name}/{name}" for name in _ADAPTER]
    found += [EVAL_RESULTS, *linked_files(card)]
    files |= {name: folder / name for name in found}
    for name, path in files.items():
        base = HERE if path.is_relative_to(HERE) and not path.is_relative_to(folder) else folder
        if not path.is_file():
            raise ValueError(f"{name} belongs to a release and is not in {base}")
        if not path.resolve().is_relative_to(base):
            raise ValueError(f"{name} is a link that leaves {base}")
        check_content(name, path.read_bytes())
    return dict(sorted(files.items()))


def linked_files(card):
    """Names of the files that a card links to by a relative path.

    Raises:
        ValueError: such a path leaves the folder, or is of a type that no card needs.
    """
    names = []
    for target in _LINK.findall(card):
        if re.match(r"[a-z]+:|#", target):
            continue
        path = Path(target.partition("#")[0])
        if path.is_absolute() or ".." in path.parts or path.suffix not in _LINKED_TYPES:
            raise ValueError(f"README.md links to {target}; a card may link to .png, .json and .md files beside it")
        names.append(path.as_posix())
    return list(dict.fromkeys(names))


def check_content(name, content):
    """Raises `ValueError` if the bytes hold what must not be published: tokens, keys, paths of this machine."""
    for what, pattern in _SECRETS.items():
        match = pattern.search(content)
        if match:
            shown = match[0][:12].decode("ascii", "replace") + "..." if "path" not in what else match[0].decode()
            raise ValueError(f"{name} holds {what} ({shown}): it would be published")
    if name == "config.json":
        _check_configuration(json.loads(content))


def _check_configuration(config):
    if config.get("custom_pipelines", {}).get(TASK, {}).get("impl") != "pipeline_tsn.TSNPipeline":
        raise ValueError(f"config.json does not name {TASK}'s pipeline: write the folder with train.py")
