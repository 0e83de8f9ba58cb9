"""Writes a complete Hub folder: weights, configuration, tokenizer and the code that loads them."""

import filecmp
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch

from chunking_tsn import token_limit

_WEIGHTS, _UNFINISHED = "model.safetensors", ".writing-"
# Keys that depend on the machine that wrote the folder.
_LOCAL_KEYS = ("_name_or_path", "name_or_path", "is_local", "local_files_only", "trust_remote_code", "_commit_hash")


def write_hub_folder(model, tokenizer, folder: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
    """Writes a folder that `pipeline("topic-sentiment-ner", model=folder, trust_remote_code=True)` loads.

    `save_pretrained` of model and tokenizer does so too. This also stores the weights in fp16, which is half the size,
    while the configuration says float32, in which a CPU is faster (transformers 5 would otherwise compute in the
    file's dtype); writes what depends on neither this machine nor the order of keys; and is safe to interrupt: the
    weights of an earlier model are deleted first, each file replaces the old one at once, and the new weights come
    last, so the folder always holds one complete model or one that does not load.

    Args:
        model: A [`TSNModel`] in fp32.
        tokenizer: Its fast tokenizer.
        folder: Created if it does not exist; files of the same names are replaced.
        dtype: Dtype of the weights in the file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished)
    weights = {name: w.to(dtype) if w.is_floating_point() else w for name, w in model.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder) as temporary:
        new = Path(temporary)
        model.save_pretrained(new, state_dict=weights)
        tokenizer.model_max_length = token_limit(tokenizer, model.config) or tokenizer.model_max_length
        tokenizer.save_pretrained(new)
        for name in ("config.json", "tokenizer_config.json"):
            values = without_local_keys(json.loads((new / name).read_text(encoding="utf-8")))
            if values.get("tokenizer_class") == "TokenizersBackend":  # what transformers 5 calls it, and 4 cannot load
                values["tokenizer_class"] = "PreTrainedTokenizerFast"
            text = json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True)
            (new / name).write_text(f"{text}\n", encoding="utf-8")
        (folder / _WEIGHTS).unlink(missing_ok=True)
        for path in sorted(new.iterdir(), key=lambda path: path.name == _WEIGHTS):
            target = folder / path.name
            if not (target.exists() and filecmp.cmp(path, target, shallow=False)):  # a link to the same stays one
                os.replace(path, target)


def without_local_keys(value):
    """A configuration's dict, at any depth, without keys that depend on the machine that wrote it."""
    if isinstance(value, dict):
        return {key: without_local_keys(v) for key, v in value.items() if key not in _LOCAL_KEYS}
    return value
