"""Writes a complete Hub folder: weights, configuration, tokenizer and the code that loads them."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch

from chunking_tsn import token_limit
from tsn.hub.files import RUNTIME_FILES, TASK
from tsn.paths import ROOT

_AUTO_MAP = {"AutoConfig": "configuration_tsn.TSNConfig", "AutoModel": "modeling_tsn.TSNModel"}
_CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_tsn.TSNPipeline", "pt": ["AutoModel"], "type": "text"}}
_WEIGHTS, _UNFINISHED = "model.safetensors", ".writing-"
# Traces of the machine that wrote the folder.
_LOCAL_KEYS = ("_name_or_path", "name_or_path", "is_local", "local_files_only", "trust_remote_code", "_commit_hash")


def write_hub_folder(model, tokenizer, folder, dtype=torch.float16):
    """Writes what `pipeline("topic-sentiment-ner", model=folder, trust_remote_code=True)` loads.

    Weights are stored in fp16, half the bytes, and the configuration says float32, as they compute faster in it on a
    CPU and transformers 5 would load what the file holds.

    The weights of an earlier model in the folder go first and the new ones come last, each file at once: whenever this
    is interrupted, the folder holds one whole model or none that loads.

    Args:
        model: A [`TSNModel`] in fp32.
        tokenizer: Its fast tokenizer.
        folder: Made if it is not there; files of the same names are replaced.
        dtype: Of the weights in the file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left)
    model.config.auto_map, model.config.custom_pipelines = dict(_AUTO_MAP), dict(_CUSTOM_PIPELINES)
    weights = {name: w.to(dtype) if w.is_floating_point() else w for name, w in model.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder) as new:
        new = Path(new)
        model.save_pretrained(new, state_dict=weights)
        tokenizer.model_max_length = token_limit(tokenizer, model.config) or tokenizer.model_max_length
        tokenizer.save_pretrained(new)
        for name in ("config.json", "tokenizer_config.json"):
            values = without_local_keys(json.loads((new / name).read_text(encoding="utf-8")))
            text = json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True)
            (new / name).write_text(f"{text}\n", encoding="utf-8")
        if folder.resolve() != ROOT:
            for name in RUNTIME_FILES:
                shutil.copyfile(ROOT / name, new / name)
        (folder / _WEIGHTS).unlink(missing_ok=True)
        for path in sorted(new.iterdir(), key=lambda path: path.name == _WEIGHTS):
            os.replace(path, folder / path.name)


def without_local_keys(value):
    """A configuration's dict without the traces of the machine that wrote it, at any depth."""
    if isinstance(value, dict):
        return {key: without_local_keys(v) for key, v in value.items() if key not in _LOCAL_KEYS}
    return value
