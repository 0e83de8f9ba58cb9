"""Configuration of TSN: one encoder with a topic, a named-entity and a sentiment head."""

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

try:
    from .tagging_tsn import TagScheme, bioes_labels
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from tagging_tsn import TagScheme, bioes_labels

TASKS = ("topic", "ner", "sentiment")
DEFAULT_BACKBONE = "distilbert/distilbert-base-multilingual-cased"

# What a stranger's config.json must never decide: where code comes from, and what a file was called elsewhere.
_UNTRUSTED_KEYS = ("trust_remote_code", "auto_map", "custom_pipelines", "_name_or_path", "is_local", "_commit_hash")

# Encoders of the RoBERTa family number positions from pad_token_id + 1, so that many fewer tokens fit.
_POSITIONS_AFTER_PADDING = frozenset(
    """camembert data2vec-text esm ibert lilt longformer luke markuplm mpnet roberta roberta-prelayernorm xlm-roberta
    xlm-roberta-xl xmod""".split()
)


class TSNConfig(PretrainedConfig):
    """Holds what is needed to build a [`TSNModel`] and to read its output.

    Args:
        backbone_config: Configuration of the encoder, as a `PretrainedConfig` or a dict with a `model_type` that
            transformers knows; any encoder that `AutoModel.from_config` builds. Defaults to the shape of
            `distilbert/distilbert-base-multilingual-cased`.
        topic_labels: Tags of the topic head, BIOES over one type. Defaults to `O, B-TOPIC, I-TOPIC, E-TOPIC, S-TOPIC`.
        ner_labels: Tags of the entity head. Defaults to `ner_scheme` over PER, LOC, ORG and MISC.
        sentiment_labels: Classes of the sentiment head. Defaults to negative, neutral, positive.
        ner_scheme: `"BIOES"` or `"IO"` (`O, PER, LOC, ...`: adjacent entities of one type become one).
        loss_weights: Weight of each head's loss, keys `topic`, `ner` and `sentiment`. Defaults to 0.7, 0.1, 0.2. The
            sentiment head's counts for texts and for topics, each.
        pooling: What the sentiment head reads: `"cls"`, the first token, or `"mean"`, the mean over the mask.
        chunk_words: Words a chunk that the model was trained on holds at most; the pipeline's default.
        head_dropout: Dropout before each head, a probability.
        temperatures: What each head's logits are divided by before the softmax that scores come from, keys as in
            `loss_weights`; a positive number each, by default 1. Fitted on validation data (`calibration_tsn.py`).
        initializer_range: Standard deviation of the normal distribution that new heads are drawn from.

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
        backbone_config=None,
        topic_labels=None,
        ner_labels=None,
        sentiment_labels=None,
        ner_scheme="BIOES",
        loss_weights=None,
        pooling="mean",
        chunk_words=50,
        head_dropout=0.1,
        temperatures=None,
        initializer_range=0.02,
        **kwargs,
    ):
        self.backbone_config = _backbone_config(backbone_config)
        self.ner_scheme = ner_scheme
        entity_types = ["PER", "LOC", "ORG", "MISC"]
        default_ner = bioes_labels(entity_types) if ner_scheme == "BIOES" else ["O", *entity_types]
        self.topic_labels = list(topic_labels) if topic_labels is not None else bioes_labels(["TOPIC"])
        self.ner_labels = list(ner_labels) if ner_labels is not None else default_ner
        sentiments = ["negative", "neutral", "positive"] if sentiment_labels is None else sentiment_labels
        self.sentiment_labels = list(sentiments)
        self.loss_weights = (
            {"topic": 0.7, "ner": 0.1, "sentiment": 0.2} if loss_weights is None else dict(loss_weights)
        )
        self.pooling = pooling
        self.chunk_words = chunk_words
        self.head_dropout = head_dropout
        self.temperatures = dict.fromkeys(TASKS, 1.0) if temperatures is None else dict(temperatures)
        self.initializer_range = initializer_range
        self._check()
        super().__init__(**kwargs)

    def _check(self):
        if len(self.topic_scheme().types) != 1:
            raise ValueError(f"topic_labels must tag one type, not {self.topic_labels}")
        self.entity_scheme()
        names = self.sentiment_labels
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(f"sentiment_labels must be two or more different names, not {names}")
        weights = self.loss_weights
        if set(weights) != set(TASKS) or not all(
            isinstance(w, (int, float)) and 0 <= w < float("inf") for w in weights.values()
        ):
            raise ValueError(f"loss_weights must give a number >= 0 for each of {', '.join(TASKS)}, not {weights}")
        if set(self.temperatures) != set(TASKS) or not all(
            isinstance(t, (int, float)) and not isinstance(t, bool) and 0 < t < float("inf")
            for t in self.temperatures.values()
        ):
            raise ValueError(
                f"temperatures must give a number > 0 for each of {', '.join(TASKS)}, not {self.temperatures}"
            )
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"pooling must be 'cls' or 'mean', not {self.pooling!r}")
        if not isinstance(self.chunk_words, int) or isinstance(self.chunk_words, bool) or self.chunk_words < 1:
            raise ValueError(f"chunk_words must be a whole number >= 1, not {self.chunk_words!r}")
        if not isinstance(self.head_dropout, (int, float)) or not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must be a probability in [0, 1), not {self.head_dropout!r}")

    def topic_scheme(self) -> TagScheme:
        """The tag scheme of the topic head."""
        return TagScheme(self.topic_labels, "BIOES")

    def entity_scheme(self) -> TagScheme:
        """The tag scheme of the entity head."""
        return TagScheme(self.ner_labels, self.ner_scheme)

    # transformers reads these of every model; here the backbone owns them, and resizing must reach it.
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
    def max_tokens(self):
        """Tokens, special ones included, that the encoder's position table takes; None where it has no such limit."""
        positions = getattr(self.backbone_config, "max_position_embeddings", None)
        if not positions or positions < 1:
            return None
        if self.backbone_config.model_type in _POSITIONS_AFTER_PADDING:
            return positions - (self.backbone_config.pad_token_id + 1)
        return positions


def _backbone_config(value) -> PretrainedConfig:
    if value is None:
        return AutoConfig.for_model("distilbert", vocab_size=119547)
    if isinstance(value, PretrainedConfig):
        return _encoder(value)
    if not isinstance(value, dict):
        raise ValueError(f"backbone_config must be a configuration or a dict, not {type(value).__name__}")
    values = {key: v for key, v in value.items() if key not in _UNTRUSTED_KEYS}
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"backbone_config has the model_type {model_type!r}, which this transformers does not know; "
            "TSN takes encoders that come with transformers and never runs a backbone's own code."
        )
    return _encoder(AutoConfig.for_model(model_type, **values))


def _encoder(config):
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"The backbone must be an encoder; {config.model_type!r} is an encoder with a decoder.")
    return config
