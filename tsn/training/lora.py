"""LoRA adapters of a TSN model (Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models).

An adapter is a folder of its own, in PEFT's format: `adapter_model.safetensors` with the low-rank matrices and the
whole heads, `adapter_config.json`, and `config.json`, the configuration of the model that the two make together. It
lies beside the model and not in it: transformers silently loads adapter files at a model's root.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from tsn.heads import HEADS
from tsn.hub.folder import without_local_keys

HEAD_LAYERS = [f"{head}_head" for head in HEADS]
_OPTIONAL_HEADS = ["topic_sentiment_head"]
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


def attention_projections(model: TSNModel) -> list[str]:
    """Names of the backbone's linear layers that project to query, key and value, as `LoraConfig` takes them.

    Raises:
        ValueError: they have none of the names that transformers' encoders use; the message lists the layers.
    """
    names = _linear_layers(model)
    for projections in _PROJECTIONS:
        if projections <= names:
            return sorted(projections)
    raise ValueError(
        f"the attention layers of a {model.backbone.config.model_type} encoder are not known; name them with "
        f"--lora_modules, of: {', '.join(sorted(names))}"
    )


def _linear_layers(model):
    """Names of the backbone's linear layers, without their path; bitsandbytes' are such, too."""
    layers = (name for name, module in model.backbone.named_modules() if isinstance(module, torch.nn.Linear))
    return {name.rpartition(".")[2] for name in layers}


def eight_bits() -> BitsAndBytesConfig:
    """The quantization in which a base is loaded to train an adapter on it; the heads stay whole."""
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["pooler"])


def add_adapter(
    model: TSNModel, rank: int = 8, alpha: int = 16, dropout: float = 0.1, modules: list[str] | None = None
) -> PeftModel:
    """A `PeftModel` that trains low-rank matrices beside some of the model's, and the whole heads.

    Args:
        model: A [`TSNModel`], in fp32 or in 8 bits.
        rank, alpha, dropout: Of the matrices; `alpha / rank` scales them.
        modules: Names of the linear layers; the attention's query, key and value by default.

    Raises:
        ValueError: the encoder has no layer of such a name.
    """
    modules = modules or attention_projections(model)
    unknown = set(modules) - _linear_layers(model)
    if unknown:
        known = ", ".join(sorted(_linear_layers(model)))
        raise ValueError(f"the encoder has no linear layers {', '.join(sorted(unknown))}; it has {known}")
    heads = HEAD_LAYERS + [name for name in _OPTIONAL_HEADS if hasattr(model, name)]
    lora = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=modules,
        modules_to_save=heads,
    )
    return _without_base_name(get_peft_model(model, lora))


def load_adapter(model: TSNModel, folder: str | Path, trainable: bool = False) -> PeftModel:
    """A `PeftModel` of a base and an adapter's folder.

    Raises:
        ValueError: the folder holds no adapter, or one of another base, which would silently give wrong answers. A
            base in 8 bits cannot be recognised: see `check_base`.
    """
    adapter_config(folder)
    if not is_quantized(model):
        check_base(model, folder)
    return _without_base_name(PeftModel.from_pretrained(model, str(folder), is_trainable=trainable))


def check_base(model: TSNModel, folder: str | Path) -> None:
    """Raises ValueError where an adapter was trained on another base than this one, which must not be in 8 bits."""
    expected, actual = getattr(adapter_config(folder), _BASE, None), base_sha256(model)
    if expected not in (None, actual):
        raise ValueError(f"{folder} was trained on another base than this one (SHA-256 {expected}, not {actual})")


def adapter_config(folder: str | Path) -> TSNConfig:
    """The `TSNConfig` of the model that an adapter makes of its base.

    Raises:
        ValueError: the folder holds no adapter of a TSN model.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors", "config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a folder with an adapter of a TSN model: {name} is missing")
    return TSNConfig.from_json_file(folder / "config.json")


def save_adapter(adapted: PeftModel, folder: str | Path, base: str, base_digest: str) -> None:
    """Writes an adapter's folder.

    Args:
        adapted: A `PeftModel`.
        folder: Created if it does not exist.
        base: What the base was loaded from, as information. Of a path only the last part is kept.
        base_digest: `base_sha256` of the base in fp32.
    """
    folder = Path(folder)
    adapted.peft_config["default"].base_model_name_or_path = (
        Path(base).resolve().name if Path(base).exists() else str(base)
    )
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    _without_base_name(adapted)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form
    config: Any = adapted.get_base_model().config
    values = without_local_keys(config.to_dict())
    without_quantization(values)
    (folder / "config.json").write_text(json.dumps({**values, _BASE: base_digest}, indent=2) + "\n", encoding="utf-8")


def merge_adapter(base: TSNModel, folder: str | Path) -> TSNModel:
    """The plain model that an adapter makes of its base in fp32, which is changed in place."""
    merged = load_adapter(base, folder).merge_and_unload()
    merged.config.temperatures = adapter_config(folder).temperatures
    return merged


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether any of the model's weights is in 8 bits."""
    return any(parameter.dtype == torch.int8 for parameter in model.parameters())


def base_sha256(model: TSNModel) -> str:
    """SHA-256, in hexadecimal, of a model's encoder in fp32."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.backbone.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def without_quantization(values: dict) -> None:
    """Removes all traces of a quantization from a configuration's dict, in place."""
    for part in (values, values.get("backbone_config", {})):
        part.pop("quantization_config", None)


def _without_base_name(adapted):
    # PEFT decides by the configuration that it finds under this name, even on the Hub, whether to save embeddings.
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = ""  # None it would fill in again
    return adapted
