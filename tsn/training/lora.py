"""LoRA adapters of a TSN model (Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models).

An adapter is a folder of its own, in PEFT's format: `adapter_model.safetensors` with the low-rank matrices and the
whole heads, `adapter_config.json`, and `config.json`, the configuration of the model that the two make together. It
lies beside the model and not in it: transformers loads adapter files at a model's root without a word.
"""

import hashlib
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

from configuration_tsn import TSNConfig
from tsn.heads import HEADS
from tsn.hub.folder import without_local_keys

HEAD_LAYERS = [f"{head}_head" for head in HEADS]
# What encoders of transformers call their attention's projections of query, key and value.
_PROJECTIONS = (
    {"query", "key", "value"},
    {"q_lin", "k_lin", "v_lin"},
    {"q_proj", "k_proj", "v_proj"},
    {"query_proj", "key_proj", "value_proj"},
    {"q", "k", "v"},
    {"Wqkv"},
    {"qkv_proj"},
    {"in_proj"},
)
_BASE = "base_sha256"  # in the adapter's config.json


def attention_projections(model):
    """Names of the backbone's linear layers that project to query, key and value, as `LoraConfig` takes them.

    Raises:
        ValueError: they have none of the names that transformers' encoders give them; the message lists what there is.
    """
    names = _linear_layers(model)
    for projections in _PROJECTIONS:
        if projections <= names:
            return sorted(projections)
    raise ValueError(
        f"which layers of the {model.backbone.config.model_type} encoder are its attention's is not known; name them "
        f"with --lora_modules, of: {', '.join(sorted(names))}"
    )


def _linear_layers(model):
    """Names of the backbone's linear layers, without their places; bitsandbytes' are such, too."""
    layers = (name for name, module in model.backbone.named_modules() if isinstance(module, torch.nn.Linear))
    return {name.rpartition(".")[2] for name in layers}


def eight_bits():
    """The quantization in which a base is loaded to train an adapter on it; the heads stay whole."""
    return BitsAndBytesConfig(
        load_in_8bit=True, llm_int8_skip_modules=[*HEAD_LAYERS, "topic_sentiment_head", "pooler"]
    )


def add_adapter(model, rank=8, alpha=16, dropout=0.1, modules=None):
    """A `PeftModel` that trains low-rank matrices beside some of the model's, and its heads whole.

    Args:
        model: A [`TSNModel`], in fp32 or in 8 bits.
        rank, alpha, dropout: Of the matrices; `alpha / rank` scales them.
        modules: Names of the linear layers; the attention's query, key and value by default.

    Raises:
        ValueError: there is no layer of such a name.
    """
    modules = modules or attention_projections(model)
    unknown = set(modules) - _linear_layers(model)
    if unknown:
        there = ", ".join(sorted(_linear_layers(model)))
        raise ValueError(f"the encoder has no linear layers {', '.join(sorted(unknown))}; there are {there}")
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "bias": "none"}
    adapted = get_peft_model(model, LoraConfig(target_modules=modules, modules_to_save=HEAD_LAYERS, **options))
    return _without_base_name(adapted)


def load_adapter(model, folder, trainable=False):
    """A `PeftModel` of a base and an adapter's folder.

    Raises:
        ValueError: the folder holds no adapter, or that of another base, which would answer nonsense without a word.
            A base in 8 bits cannot be told: see `check_base`.
    """
    adapter_config(folder)
    if not is_quantized(model):
        check_base(model, folder)
    return _without_base_name(PeftModel.from_pretrained(model, str(folder), is_trainable=trainable))


def check_base(model, folder):
    """Raises ValueError where an adapter was trained on another base than this one, which must not be in 8 bits."""
    expected, found = getattr(adapter_config(folder), _BASE, None), base_sha256(model)
    if expected not in (None, found):
        raise ValueError(f"{folder} was trained on another base than this one (SHA-256 {expected}, not {found})")


def adapter_config(folder):
    """The `TSNConfig` of the model that an adapter makes of its base.

    Raises:
        ValueError: the folder holds no adapter of a TSN model.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors", "config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a folder with an adapter of a TSN model: {name} is missing")
    return TSNConfig.from_json_file(folder / "config.json")


def save_adapter(adapted, folder, base, base_digest):
    """Writes an adapter's folder.

    Args:
        adapted: A `PeftModel`.
        folder: Made if it is not there.
        base: What the base was loaded from, to tell the reader. Of a path only the last part is kept.
        base_digest: `base_sha256` of the base in fp32.
    """
    folder = Path(folder)
    adapted.peft_config["default"].base_model_name_or_path = (
        Path(base).resolve().name if Path(base).exists() else str(base)
    )
    adapted.save_pretrained(folder, save_embedding_layers=False)
    _without_base_name(adapted)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form
    values = without_local_keys(adapted.get_base_model().config.to_dict())
    without_quantization(values)
    (folder / "config.json").write_text(json.dumps({**values, _BASE: base_digest}, indent=2) + "\n", encoding="utf-8")


def merge_adapter(base, folder):
    """The plain model that an adapter makes of its base in fp32, which is changed in place."""
    merged = load_adapter(base, folder).merge_and_unload()
    merged.config.temperatures = adapter_config(folder).temperatures
    return merged


def is_quantized(model):
    """Whether any of the model's weights is in 8 bits."""
    return any(parameter.dtype == torch.int8 for parameter in model.parameters())


def base_sha256(model):
    """SHA-256, in hexadecimal, of a model's encoder in fp32."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.backbone.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def without_quantization(values):
    """Removes all traces of a quantization from a configuration's dict, in place."""
    for part in (values, values.get("backbone_config", {})):
        part.pop("quantization_config", None)


def _without_base_name(adapted):
    # Whether PEFT saves the embeddings hangs on the configuration that it finds under this name, on the Hub even.
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = ""  # None it would fill in again
    return adapted
