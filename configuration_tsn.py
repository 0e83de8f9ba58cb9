"""Configuration of TSN: one encoder with a topic, a named-entity and a sentiment head."""

import inspect
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Optional, cast

import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

try:
    from .chunking_tsn import check_number, check_whole_number
    from .tagging_tsn import TagScheme, bioes_labels
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from chunking_tsn import check_number, check_whole_number
    from tagging_tsn import TagScheme, bioes_labels
if __package__:  # transformers does not tell the package of its modules, where pickling by name looks for them
    setattr(sys.modules[__package__], __name__.rpartition(".")[2], sys.modules[__name__])

TASKS = ("topic", "ner", "sentiment")
DEFAULT_BACKBONE = "distilbert/distilbert-base-multilingual-cased"
RUNTIME_FILES = (
    *("configuration_tsn.py", "modeling_tsn.py", "graph_tsn.py", "onnx_tsn.py", "openvino_tsn.py"),
    *("tagging_tsn.py", "chunking_tsn.py", "pipeline_tsn.py"),
)
"""The code that loads a checkpoint, which lies beside its config.json."""
_AUTO_MAP = {"AutoConfig": "configuration_tsn.TSNConfig", "AutoModel": "modeling_tsn.TSNModel"}
_CUSTOM_PIPELINES = {"topic-sentiment-ner": {"impl": "pipeline_tsn.TSNPipeline", "pt": ["AutoModel"], "type": "text"}}

# A config.json from the Hub must not decide where code or weights come from (an attention implementation may be a
# repository of kernels), what a file was called elsewhere, how the configuration is read, or the length of a dict that
# transformers builds. The heads' sizes follow from the label lists, and the pipeline reads outputs by name.
_UNTRUSTED_KEYS = frozenset(
    """trust_remote_code _name_or_path is_local transformers_weights attn_implementation
    _attn_implementation _attn_implementation_internal experts_implementation _experts_implementation
    _experts_implementation_internal num_labels return_dict attribute_map sub_configs keys_to_ignore_at_inference
    base_config_key has_no_defaults_at_init""".split()
)
# Removed from the backbone's part only: whoever loads the model decides whether to trust its code, and transformers
# adds the commit itself, to load the other files from the same one.
_BACKBONE_KEYS = {"auto_map", "custom_pipelines", "_commit_hash"}
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
MOST_LAYERS, MOST_WEIGHTS = 1000, 2**36  # no encoder is larger; more would only exhaust the memory

# Encoders of the RoBERTa family number positions from pad_token_id + 1, so pad_token_id + 1 fewer tokens fit.
_POSITIONS_AFTER_PADDING = frozenset(
    """camembert data2vec-text esm ibert lilt longformer luke markuplm mpnet roberta roberta-prelayernorm xlm-roberta
    xlm-roberta-xl xmod""".split()
)


class TSNConfig(PretrainedConfig):
    """Everything that is needed to build a [`TSNModel`] and to read its output.

    Args:
        backbone_config: Configuration of the encoder, as a `PretrainedConfig` or a dict with a `model_type` that
            transformers knows; any encoder that `AutoModel.from_config` builds. Defaults to the shape of
            `distilbert/distilbert-base-multilingual-cased`.
        topic_labels: Tags of the topic head, BIOES over one type. Defaults to `O, B-TOPIC, I-TOPIC, E-TOPIC, S-TOPIC`.
        ner_labels: Tags of the entity head. Defaults to `ner_scheme` over PER, LOC, ORG and MISC.
        sentiment_labels: Classes of the sentiment head. Defaults to negative, neutral, positive.
        ner_scheme: `"BIOES"` or `"IO"` (`O, PER, LOC, ...`: adjacent entities of one type become one).
        loss_weights: Weight of each head's loss, with the keys `topic`, `ner` and `sentiment`. Defaults to 0.7, 0.1
            and 0.2. The weight of `sentiment` applies to the sentiment of texts and to that of topics, to each.
        pooling: What the sentiment head reads: `"cls"`, the first token, or `"mean"`, the mean over the mask.
        chunk_words: Maximum number of words of a chunk in training, and the pipeline's default.
        head_dropout: Dropout probability before each head.
        temperatures: Divisor of each head's logits before the softmax that gives the scores, with the keys of
            `loss_weights`; from 0.001 to 1000, 1 by default. Fitted on validation data by
            `python -m tsn.evaluation.calibration`.
        topic_sentiment_head: Whether the sentiment of topics has a head of its own. If not, the sentiment head is
            read at their words. Defaults to False.
        initializer_range: Standard deviation of the normal distribution that initializes new heads.

    Raises:
        ValueError: a value is outside its range, or a label list does not fit its scheme.
    """

    model_type = "tsn"
    sub_configs = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference = [
        *("topic_loss", "ner_loss", "sentiment_loss", "topic_sentiment_loss"),
        *("hidden_states", "attentions"),
    ]

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict | None = None,
        topic_labels: Optional[list[str]] = None,
        ner_labels: Optional[list[str]] = None,
        sentiment_labels: Optional[list[str]] = None,
        ner_scheme: str = "BIOES",
        loss_weights: Optional[dict[str, float]] = None,
        pooling: str = "mean",
        chunk_words: int = 50,
        head_dropout: float = 0.1,
        temperatures: Optional[dict[str, float]] = None,
        topic_sentiment_head: bool = False,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ):
        self.backbone_config = _backbone_config(backbone_config)
        self.ner_scheme = ner_scheme
        entity_types = ["PER", "LOC", "ORG", "MISC"]
        default_ner = bioes_labels(entity_types) if ner_scheme == "BIOES" else ["O", *entity_types]
        sentiments = ["negative", "neutral", "positive"]
        self.topic_labels = _copied("topic_labels", topic_labels, list, bioes_labels(["TOPIC"]))
        self.ner_labels = _copied("ner_labels", ner_labels, list, default_ner)
        self.sentiment_labels = _copied("sentiment_labels", sentiment_labels, list, sentiments)
        weights = {"topic": 0.7, "ner": 0.1, "sentiment": 0.2}
        self.loss_weights = _copied("loss_weights", loss_weights, dict, weights)
        self.pooling = pooling
        self.chunk_words = chunk_words
        self.head_dropout = head_dropout
        self.temperatures = _copied("temperatures", temperatures, dict, dict.fromkeys(TASKS, 1.0))
        self.topic_sentiment_head = topic_sentiment_head
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
        self._check()

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in transformers, without the keys that a config.json must not decide."""
        try:
            return super().from_dict(_settings(config_dict, cls, _UNTRUSTED_KEYS), **kwargs)
        except ValueError:
            raise
        except Exception as error:  # transformers does not check every value, and each version fails in its own way
            raise ValueError(f"not a TSN configuration ({type(error).__name__}: {error})") from error

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes config.json and the code that loads the folder with `pipeline(..., trust_remote_code=True)`.

        A model's `save_pretrained` calls this. transformers itself would write the code of a model from the Hub only,
        and not the pipeline's.
        """
        if not os.path.isfile(save_directory):  # an error that transformers raises
            self.save_code(save_directory, Path(__file__).parent)
        # In a model from the Hub these name its repository.
        for name, ours in (("auto_map", _AUTO_MAP), ("custom_pipelines", _CUSTOM_PIPELINES)):
            others = getattr(self, name, None)
            setattr(self, name, {**(others if isinstance(others, dict) else {}), **ours})
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def save_code(self, save_directory: str | os.PathLike, source: str | os.PathLike) -> None:
        """Copies the runtime files from the folder `source`, as far as they are there."""
        os.makedirs(save_directory, exist_ok=True)
        for name in RUNTIME_FILES:
            original, copied = Path(source, name), Path(save_directory, name)
            if original.is_file() and original.resolve() != copied.resolve():
                shutil.copyfile(original, copied)

    def _check(self):
        if len(self.topic_scheme().types) != 1:
            raise ValueError(f"topic_labels must tag one type, not {self.topic_labels}")
        self.entity_scheme()
        names = self.sentiment_labels
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(f"sentiment_labels must be two or more different names, not {names}")
        for name, low, high, shown in (("loss_weights", 0, 1e6, ">= 0"), ("temperatures", 1e-3, 1e3, "> 0")):
            values = getattr(self, name)
            if set(values) != set(TASKS) or not all(_is_number(value, low, high) for value in values.values()):
                raise ValueError(
                    f"{name} must give a number {shown} for each of {', '.join(TASKS)}, from {low:g} to {high:g}, "
                    f"not {values!r:.300}"
                )
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"pooling must be 'cls' or 'mean', not {self.pooling!r}")
        check_whole_number("chunk_words", self.chunk_words, 1)
        if not _is_number(self.head_dropout, 0, 1) or self.head_dropout == 1:
            raise ValueError(f"head_dropout must be a probability in [0, 1), not {self.head_dropout!r}")
        if not isinstance(self.topic_sentiment_head, bool):
            raise ValueError(f"topic_sentiment_head must be true or false, not {self.topic_sentiment_head!r:.100}")
        check_number("initializer_range", self.initializer_range, 0, 1e3)
        _check_backbone(self.backbone_config)
        for config in (self, self.backbone_config):
            dtype = getattr(config, "dtype", None)
            if dtype is not None and not isinstance(dtype, torch.dtype):
                raise ValueError(f"dtype must be the name of a torch dtype, not {dtype!r:.100}")

    def topic_scheme(self) -> TagScheme:
        """The tag scheme of the topic head."""
        return TagScheme(self.topic_labels, "BIOES")

    def entity_scheme(self) -> TagScheme:
        """The tag scheme of the entity head."""
        return TagScheme(self.ner_labels, self.ner_scheme)

    # transformers reads these of every model. They are the backbone's, and resizing must change them there.
    @property
    def vocab_size(self) -> int:
        return self.backbone_config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int):
        self.backbone_config.vocab_size = value

    @property
    def hidden_size(self) -> int:
        return self.backbone_config.hidden_size

    @property
    def num_attention_heads(self) -> int:
        return self.backbone_config.num_attention_heads

    @property
    def num_hidden_layers(self) -> int:
        return self.backbone_config.num_hidden_layers

    @property
    def max_tokens(self) -> Optional[int]:
        """Most tokens, special ones included, that the encoder has positions for; None if it has no limit."""
        positions = getattr(self.backbone_config, "max_position_embeddings", None)
        if not positions or positions < 1:
            return None
        if self.backbone_config.model_type in _POSITIONS_AFTER_PADDING:
            return positions - (cast(int, self.backbone_config.pad_token_id) + 1)
        return positions


def _copied(name, value, kind, default):
    """A copy of a list or dict; `list` would split a string into letters."""
    if value is None:
        return default
    if not isinstance(value, (list, tuple) if kind is list else dict):
        raise ValueError(f"{name} must be a {kind.__name__}, not {value!r:.100}")
    return kind(value)


def _is_number(value, low, high):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _settings(values, cls, untrusted):
    """A configuration's dict without `untrusted` keys at any depth and without keys that would hide a method."""
    if isinstance(values, list):
        return [_settings(value, cls, untrusted) for value in values]
    if not isinstance(values, dict):
        return values
    kept = {}
    for key, value in values.items():
        attribute = inspect.getattr_static(cls, key, None) if isinstance(key, str) else None
        read_only = isinstance(attribute, property) and attribute.fset is None
        if key not in untrusted and not read_only and not inspect.isroutine(attribute):
            kept[key] = _settings(value, PretrainedConfig, untrusted)
    return kept


def _backbone_config(value) -> PretrainedConfig:
    if value is None:
        return AutoConfig.for_model("distilbert", vocab_size=119547)
    if isinstance(value, PretrainedConfig):
        return _encoder(value)
    if not isinstance(value, dict):
        raise ValueError(f"backbone_config must be a configuration or a dict, not {type(value).__name__}")
    model_type = value.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING or model_type == TSNConfig.model_type:
        raise ValueError(
            f"backbone_config has the model_type {model_type!r:.100}, which this transformers does not know; "
            "TSN takes encoders that come with transformers and never runs a backbone's own code."
        )
    values = _settings(value, CONFIG_MAPPING[model_type], _UNTRUSTED_KEYS | _BACKBONE_KEYS)
    del values["model_type"]
    try:
        config = AutoConfig.for_model(model_type, **values)
    except Exception as error:  # as in `from_dict`
        raise ValueError(
            f"backbone_config is not a {model_type!r} configuration ({type(error).__name__}: {error})"
        ) from error
    return _encoder(config)


def _encoder(config):
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"The backbone must be an encoder, but {config.model_type!r} has a decoder, too.")
    return config


def _check_backbone(config):
    """Raises ValueError for sizes that no encoder has, before anything is allocated."""
    sizes = {name: getattr(config, name, 1) for name in _SIZES}
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"backbone_config: {name} must be a whole number >= 1, not {size!r:.100}")
    positions, padding = getattr(config, "max_position_embeddings", None), getattr(config, "pad_token_id", None)
    for name, value in (("max_position_embeddings", positions), ("pad_token_id", padding)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ValueError(f"backbone_config: {name} must be a whole number or null, not {value!r:.100}")
    if sizes["num_hidden_layers"] > MOST_LAYERS:
        raise ValueError(
            f"backbone_config: num_hidden_layers must be at most {MOST_LAYERS}, not {sizes['num_hidden_layers']}"
        )
    for name, value in vars(config).items():
        if isinstance(value, int) and abs(value) >= 2**31:
            raise ValueError(f"backbone_config: {name} is too large for any encoder: {value!r:.100}")
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise ValueError(f"backbone_config: {name} must be a finite number, not {value}")
        probability = name.endswith(("dropout", "dropout_prob", "dropout_rate")) and not isinstance(value, bool)
        if probability and value is not None and not _is_number(value, 0, 1):
            raise ValueError(f"backbone_config: {name} must be a probability in [0, 1], not {value!r:.100}")
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    tables = (sizes["vocab_size"] + max(positions or 0, 0)) * hidden
    if tables + sizes["num_hidden_layers"] * hidden * (4 * hidden + 2 * inner) > MOST_WEIGHTS:
        sizes["max_position_embeddings"] = positions
        raise ValueError(
            f"backbone_config: an encoder of {sizes!r:.400} would have more than {MOST_WEIGHTS:,} weights"
        )


class _UntrustedConfig(PretrainedConfig):
    """What `AutoConfig` returns for TSN's config.json without `trust_remote_code`, as `AutoTokenizer` wants it.

    transformers 5 loads a configuration with every tokenizer, and for a model type that it does not know asks on
    standard input whether to run custom code. It counts as a class of transformers, because a class of anyone else's
    would take precedence over the code of a Hub folder, even of another version.
    """

    model_type = TSNConfig.model_type
    __module__ = PretrainedConfig.__module__


AutoConfig.register(TSNConfig.model_type, _UntrustedConfig, exist_ok=True)
