"""The model to train: an encoder with new heads, a TSN model, or either with a LoRA adapter."""

from dataclasses import fields
from typing import Any

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from tagging_tsn import bioes_labels
from tsn.heads import HEADS
from tsn.training.arguments import LoraArguments, ModelArguments
from tsn.training.distillation import keep_layers
from tsn.training.lora import adapter_config, add_adapter, check_base, eight_bits, load_adapter

MODEL_OPTIONS = ("entity_types", "ner_scheme", "pooling", "chunk_words")
"""Options that shape new heads; a TSN model and an adapter bring their own."""
_FROM_CONFIG = (
    *("topic_labels", "ner_labels", "sentiment_labels", "ner_scheme", "loss_weights", "pooling", "chunk_words"),
    "head_dropout",
)


def load_tokenizer(backbone: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of an encoder or a TSN model.

    Raises:
        ValueError: it has only a slow one, which gives no offsets.
    """
    tokenizer = AutoTokenizer.from_pretrained(backbone, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ValueError(f"{backbone} has no fast tokenizer, and only a fast one gives offsets")
    return tokenizer


def build_model(arguments: ModelArguments, lora: LoraArguments, device: torch.device) -> torch.nn.Module:
    """The model to train: a [`TSNModel`], or with `--lora` a `PeftModel` of one.

    Args:
        arguments, lora: See `tsn.training.arguments.parse_arguments`.
        device: Where weights in 8 bits are loaded to.

    Raises:
        ValueError: options that do not go together, or an adapter of another base.
    """
    if not lora.lora:
        return load_model(arguments)
    options: dict[str, Any] = {}
    if lora.load_in_8bit:
        options = {"quantization_config": eight_bits(), "dtype": torch.float32}
        if device.type == "cuda":
            options["device_map"] = {"": device.index or 0}
    if not lora.adapter:
        base = load_model(arguments, **options)
        return add_adapter(base, lora.lora_rank, lora.lora_alpha, lora.lora_dropout, lora.lora_modules)
    own = [f for f in fields(lora) if f.name.startswith("lora_") and getattr(lora, f.name) != f.default]
    given = [f.name for f in own] + [name for name in MODEL_OPTIONS if getattr(arguments, name) is not None]
    if given:
        raise ValueError(f"{lora.adapter} is an adapter and brings its own {', '.join(given)}: leave them out.")
    config = adapter_config(lora.adapter)
    if lora.load_in_8bit:
        check_base(load_model(arguments, config), lora.adapter)
    return load_adapter(load_model(arguments, config, **options), lora.adapter, trainable=True)


def load_model(arguments: ModelArguments, config: TSNConfig | None = None, **options) -> TSNModel:
    """A plain model from an encoder or from a TSN model.

    Args:
        config: Shapes the heads of a model on an encoder, rather than the arguments.
        options: Passed to `from_pretrained`, such as `quantization_config`.

    Raises:
        ValueError: options that do not go together.
    """
    if config is None:
        given = {name: getattr(arguments, name) for name in MODEL_OPTIONS if getattr(arguments, name) is not None}
        if types := given.pop("entity_types", None):
            given["ner_labels"] = ["O", *types] if arguments.ner_scheme == "IO" else bioes_labels(types)
    else:
        given = {name: getattr(config, name) for name in _FROM_CONFIG}
    if arguments.loss_weights is not None:
        if len(arguments.loss_weights) != len(HEADS):
            raise ValueError(f"--loss_weights needs {len(HEADS)} numbers: {', '.join(HEADS)}")
        given["loss_weights"] = dict(zip(HEADS, arguments.loss_weights))
    model_type = PretrainedConfig.get_config_dict(arguments.backbone)[0].get("model_type")
    if model_type != TSNConfig.model_type:
        model = TSNModel.from_backbone(arguments.backbone, options, **given)
    else:
        model = TSNModel.from_pretrained(arguments.backbone, **options)
        model.config.loss_weights = given.pop("loss_weights", model.config.loss_weights)
        if given and config is None:
            names = {"entity_types" if name == "ner_labels" else name for name in given}
            raise ValueError(
                f"{arguments.backbone} is a TSN model and brings its own {', '.join(sorted(names))}: leave them out."
            )
    if arguments.num_layers is not None:
        keep_layers(model, arguments.num_layers)
    if arguments.encoder_dropout is not None:
        set_dropout(model.backbone, arguments.encoder_dropout)
    return model


def set_dropout(encoder: torch.nn.Module, probability: float) -> None:
    """Sets every dropout of a built encoder. Its configuration stays as it is: it says how others train it."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        for name, value in vars(module).items():  # attention often applies it within its kernel
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, probability)
