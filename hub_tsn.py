"""Writes a complete Hub folder: weights, configuration, tokenizer and the code that loads them."""

import json
import shutil
from pathlib import Path

from chunking_tsn import token_limit

TASK = "topic-sentiment-ner"
RUNTIME_FILES = (
    *("configuration_tsn.py", "modeling_tsn.py", "onnx_tsn.py"),
    *("tagging_tsn.py", "chunking_tsn.py", "pipeline_tsn.py"),
)
_AUTO_MAP = {"AutoConfig": "configuration_tsn.TSNConfig", "AutoModel": "modeling_tsn.TSNModel"}
_CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_tsn.TSNPipeline", "pt": ["AutoModel"], "type": "text"}}
# Traces of the machine that wrote the folder.
_LOCAL_KEYS = ("_name_or_path", "name_or_path", "is_local", "local_files_only", "trust_remote_code", "_commit_hash")


def write_hub_folder(model, tokenizer, folder):
    """Writes what `pipeline("topic-sentiment-ner", model=folder, trust_remote_code=True)` loads.

    Weights are stored in fp16, half the bytes, and the configuration says float32, as they compute faster in it on a
    CPU and transformers 5 would load what the file holds.

    Args:
        model: A [`TSNModel`] in fp32.
        tokenizer: Its fast tokenizer.
        folder: Made if it is not there; files of the same names are replaced.
    """
    folder = Path(folder)
    model.config.auto_map, model.config.custom_pipelines = dict(_AUTO_MAP), dict(_CUSTOM_PIPELINES)
    weights = {name: w.half() if w.is_floating_point() else w for name, w in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.model_max_length = token_limit(tokenizer, model.config) or tokenizer.model_max_length
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        values = _without_local_keys(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    here = Path(__file__).resolve().parent
    if folder.resolve() != here:
        for name in RUNTIME_FILES:
            shutil.copyfile(here / name, folder / name)


def _without_local_keys(value):
    if isinstance(value, dict):
        return {key: _without_local_keys(v) for key, v in value.items() if key not in _LOCAL_KEYS}
    return value
