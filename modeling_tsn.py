"""TSN: an encoder that reads a text once, and three heads for topics, named entities and sentiment."""

import inspect
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

try:
    from .configuration_tsn import TSNConfig
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from configuration_tsn import TSNConfig
if __package__:  # transformers does not tell the package of its modules, where pickling by name looks for them
    setattr(sys.modules[__package__], __name__.rpartition(".")[2], sys.modules[__name__])
if TYPE_CHECKING:  # with this file transformers fetches those that it names; the pipeline's are needed to save a model
    from .chunking_tsn import encode_chunks  # noqa: F401
    from .graph_tsn import TSNGraphModel  # noqa: F401
    from .pipeline_tsn import TSNPipeline  # noqa: F401
    from .tagging_tsn import TagScheme

LOSSES = {"topic": "topic", "ner": "ner", "sentiment": "sentiment", "topic_sentiment": "sentiment"}
"""Each loss, and the key of its weight in `config.loss_weights`."""

if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    # torch's threads do not survive a fork: a forked process would wait for them forever. Torch's own DataLoader does
    # the same in its workers.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@dataclass
class TSNOutput(ModelOutput):
    """Output of [`TSNModel`].

    Args:
        loss: Weighted sum of the losses whose labels were given; scalar.
        topic_logits: `(batch, tokens, topic tags)`.
        ner_logits: `(batch, tokens, entity tags)`.
        sentiment_logits: `(batch, classes)`.
        topic_sentiment_logits: `(batch, tokens, classes)`; their mean over the words of a topic is the topic's
            sentiment. From the head for it or, in a model without one, from the sentiment head at each token; with
            `cls` pooling that is the text's sentiment, repeated for every token.
        topic_loss, ner_loss, sentiment_loss, topic_sentiment_loss: Mean cross-entropy of each in nats, before
            weighting; scalars.
        hidden_states: The backbone's, each `(batch, tokens, hidden)`, on demand.
        attentions: The backbone's, each `(batch, heads, tokens, tokens)`, on demand.
    """

    loss: Optional[torch.FloatTensor] = None
    topic_logits: Optional[torch.FloatTensor] = None
    ner_logits: Optional[torch.FloatTensor] = None
    sentiment_logits: Optional[torch.FloatTensor] = None
    topic_sentiment_logits: Optional[torch.FloatTensor] = None
    topic_loss: Optional[torch.FloatTensor] = None
    ner_loss: Optional[torch.FloatTensor] = None
    sentiment_loss: Optional[torch.FloatTensor] = None
    topic_sentiment_loss: Optional[torch.FloatTensor] = None
    hidden_states: Optional[tuple] = None
    attentions: Optional[tuple] = None


class TSNModel(PreTrainedModel):
    """One encoder, three heads.

    Example:
        ```python
        model = AutoModel.from_pretrained("org/tsn", trust_remote_code=True)
        output = model(**tokenizer("The screen is great.", return_tensors="pt"))
        output.topic_logits.shape, output.sentiment_logits.shape  # (1, 7, 5), (1, 3)
        ```
    """

    config_class = TSNConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"^backbone\.pooler\."]
    # The loss is a mean over labels, so the trainer has to divide by the number of accumulation steps, not the model.
    accepts_loss_kwargs = False
    HEADS = ("topic_head", "ner_head", "sentiment_head", "topic_sentiment_head")

    def __init__(self, config: TSNConfig, backbone: Optional[PreTrainedModel] = None):
        super().__init__(config)
        self.backbone = _new_backbone(config.backbone_config) if backbone is None else backbone
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # no head reads it, and DDP fails on parameters without a gradient
        self._no_split_modules = self.backbone._no_split_modules
        self._backbone_arguments = frozenset(inspect.signature(self.backbone.forward).parameters)
        self.dropout = nn.Dropout(config.head_dropout)
        self.topic_head = nn.Linear(config.hidden_size, len(config.topic_labels))
        self.ner_head = nn.Linear(config.hidden_size, len(config.ner_labels))
        self.sentiment_head = nn.Linear(config.hidden_size, len(config.sentiment_labels))
        if config.topic_sentiment_head:
            self.topic_sentiment_head = nn.Linear(config.hidden_size, len(config.sentiment_labels))
        self._quantized = getattr(config, "quantization_config", None) is not None
        if self._quantized:
            # Every quantization of transformers leaves these as they are: they are small, and what the model answers
            # depends on them directly. Not declared for the class, as they would then stay fp32 in an fp16 model.
            self._keep_in_fp32_modules = [name for name in self.HEADS if hasattr(self, name)]
        self.post_init()

    @classmethod
    def from_backbone(
        cls, backbone: str | os.PathLike, load_options: Optional[dict] = None, **config_kwargs: Any
    ) -> "TSNModel":
        """A model with a pretrained encoder and new heads, to be trained.

        Args:
            backbone: Hub id or folder of an encoder. Custom code in it is never run.
            load_options: Options of `from_pretrained` for the encoder, such as `quantization_config`.
            config_kwargs: Arguments of [`TSNConfig`].
        """
        fixed = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
        encoder = AutoModel.from_pretrained(backbone, **{**(load_options or {}), **fixed})
        attention = encoder.config._attn_implementation
        config = TSNConfig(backbone_config=encoder.config, **config_kwargs)
        # TSNConfig unsets it, and without it transformers 5 ignores the attention mask.
        config.backbone_config._attn_implementation = attention
        return cls(config, encoder)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, but from safetensors only, and a checkpoint with missing weights is an error.

        With `onnx_file="model_quantized.onnx"`, or another file of the checkpoint's `onnx` folder, the result is a
        [`TSNOnnxModel`], which also takes `num_threads` and `providers`. With `openvino_file="model_quantized.xml"`,
        of its `openvino` folder, it is a [`TSNOpenVinoModel`], which takes `num_threads` and `dtype`. Likewise in
        `pipeline(..., model_kwargs=...)`.

        Raises:
            ValueError: the checkpoint lacks some of the model's weights. transformers would initialize them randomly,
                and the model would silently give random answers.
            OSError: `model.safetensors` is missing or damaged.
        """
        if "onnx_file" in kwargs or "openvino_file" in kwargs:
            return _graph_model(cls, pretrained_model_name_or_path, kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True  # a pickle runs code when it is loaded
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
            )
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are damaged ({error}). Download or copy them again."
            ) from error
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"The checkpoint {pretrained_model_name_or_path} lacks {len(missing)} of the model's weights "
                f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}). It is damaged or belongs to "
                "another model; to train new heads on an encoder, use TSNModel.from_backbone or train.py."
            )
        return (model, info) if wants_info else model

    def get_input_embeddings(self):
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.backbone.set_input_embeddings(value)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        inputs_embeds=None,
        topic_labels=None,
        ner_labels=None,
        sentiment_labels=None,
        topic_sentiment_labels=None,
        annotated_entity_types=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        """
        Args:
            input_ids: `(batch, tokens)`, or `inputs_embeds`: `(batch, tokens, hidden)`.
            attention_mask: `(batch, tokens)`, 1 for tokens to read and 0 for padding; all ones if None.
            token_type_ids, position_ids: `(batch, tokens)`; ignored if the backbone has no such input.
            topic_labels: `(batch, tokens)` indices into `config.topic_labels`, -100 where there is no label.
            ner_labels: `(batch, tokens)` indices into `config.ner_labels`, -100 where there is no label.
            sentiment_labels: `(batch,)` indices into `config.sentiment_labels`, -100 where there is no label.
            topic_sentiment_labels: `(batch, tokens)` indices into `config.sentiment_labels` at the words of spans
                whose sentiment is known, -100 elsewhere.
            annotated_entity_types: `(batch, entity types)` bool, the types that `ner_labels` are complete for; all of
                them if None. See [`summed_marginal_cross_entropy`].

        Returns:
            [`TSNOutput`], or with `return_dict=False` a tuple of its values that are not None. `loss` is None if no
            labels were given; labels that are all -100 add 0.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        optional = {"token_type_ids": token_type_ids, "position_ids": position_ids}
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **{k: v for k, v in optional.items() if v is not None and k in self._backbone_arguments},
        )
        hidden = outputs.last_hidden_state  # (batch, tokens, hidden)
        if self._quantized:  # the heads may be in another dtype
            hidden = hidden.to(self.sentiment_head.weight.dtype)  # (batch, tokens, hidden)
        tokens = self.dropout(hidden)  # (batch, tokens, hidden)
        topic_logits = self.topic_head(tokens)  # (batch, tokens, topic tags)
        ner_logits = self.ner_head(tokens)  # (batch, tokens, entity tags)
        pooled = self._pool(hidden, attention_mask)  # (batch, hidden)
        sentiment_logits = self.sentiment_head(self.dropout(pooled))  # (batch, classes)
        topic_sentiment_logits = self._span_sentiment(tokens, sentiment_logits)  # (batch, tokens, classes)

        losses = {
            "topic": _mean_cross_entropy(topic_logits, topic_labels),
            "ner": _mean_cross_entropy(ner_logits, ner_labels, annotated_entity_types, self.config.entity_scheme),
            "sentiment": _mean_cross_entropy(sentiment_logits, sentiment_labels),
            "topic_sentiment": _mean_cross_entropy(topic_sentiment_logits, topic_sentiment_labels),
        }
        weights = self.config.loss_weights
        weighted = [weights[LOSSES[name]] * loss for name, loss in losses.items() if loss is not None]
        output = TSNOutput(
            loss=sum(weighted) if weighted else None,
            topic_logits=topic_logits,
            ner_logits=ner_logits,
            sentiment_logits=sentiment_logits,
            topic_sentiment_logits=topic_sentiment_logits,
            **{f"{name}_loss": loss for name, loss in losses.items()},
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    def _span_sentiment(self, tokens, sentiment_logits):
        """`(batch, tokens, classes)`: the sentiment of a span is read from the mean over its words."""
        if self.config.topic_sentiment_head:
            return self.topic_sentiment_head(tokens)  # (batch, tokens, classes)
        if self.config.pooling == "mean":
            # The head is linear: the mean over all tokens gives the logits of the text.
            return self.sentiment_head(tokens)  # (batch, tokens, classes)
        return sentiment_logits[:, None].expand(-1, tokens.shape[1], -1)  # (batch, tokens, classes)

    def _pool(self, hidden, attention_mask):
        if self.config.pooling == "cls":
            return hidden[:, 0]  # (batch, hidden)
        if attention_mask is None:
            return hidden.mean(1)  # (batch, hidden)
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (batch, tokens, 1)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)  # (batch, hidden)


def _new_backbone(config):
    try:
        return AutoModel.from_config(config, dtype=torch.get_default_dtype())
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"no {config.model_type!r} encoder can be built from backbone_config ({type(error).__name__}: {error})"
        ) from error


def _graph_model(cls, name_or_path, kwargs):
    """The model in ONNX Runtime or OpenVINO."""
    try:
        from .onnx_tsn import TSNOnnxModel
        from .openvino_tsn import TSNOpenVinoModel
    except ImportError:
        from onnx_tsn import TSNOnnxModel
        from openvino_tsn import TSNOpenVinoModel
    if "onnx_file" in kwargs and "openvino_file" in kwargs:
        raise ValueError("onnx_file and openvino_file exclude each other: pass one of them")
    if "onnx_file" in kwargs:
        model_class, names = TSNOnnxModel, ("onnx_file", "num_threads", "providers")
    else:
        model_class, names = TSNOpenVinoModel, ("openvino_file", "num_threads", "dtype")
    hub = ("revision", "token", "cache_dir", "local_files_only", "force_download", "_commit_hash")
    hub = {name: kwargs[name] for name in hub if name in kwargs}
    options = {name: kwargs[name] for name in names if name in kwargs}
    config = kwargs.get("config") or cls.config_class.from_pretrained(name_or_path, **hub)
    return model_class.from_pretrained(name_or_path, config, **options, **hub)


def _mean_cross_entropy(logits, labels, annotated_types=None, scheme=None):
    """Mean over the labels that are not -100; 0, with a gradient of 0, if there are none. None without labels."""
    if labels is None:
        return None
    if annotated_types is None:
        total = summed_cross_entropy(logits, labels)
    else:
        total = summed_marginal_cross_entropy(logits, labels, annotated_types, scheme())
    return total / (labels != -100).sum().clamp(min=1)


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, summed over the labels that are not -100.

    Args:
        logits: `(..., classes)`.
        labels: `(...)` indices of classes.
    """
    logits = logits.flatten(0, -2).float()  # (labels, classes); in fp16 a sum over a batch overflows
    return nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum")  # ()


def summed_marginal_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, annotated_types: torch.Tensor, scheme: "TagScheme"
) -> torch.Tensor:
    """Cross-entropy in nats of entity tags, for rows that have only some of the entity types annotated.

    In such a row a word labelled `O` is no entity of an annotated type, but may be one of another type. Its loss is
    the negative log of the probability of `O` or any tag of a type that is not annotated (Greenberg et al. 2018,
    "Marginal Likelihood Training of BiLSTM-CRF for Biomedical Named Entity Recognition from Disjoint Label Sets").

    Args:
        logits: `(batch, tokens, tags)`.
        labels: `(batch, tokens)` indices of tags, -100 where there is no label.
        annotated_types: `(batch, types)` bool, in the order of `scheme.types`.
        scheme: The `TagScheme` of the tags.

    Returns:
        The sum over the labels that are not -100; scalar.
    """
    logits = logits.float()  # (batch, tokens, tags)
    outside = scheme.labels.index("O")
    tag_types = torch.as_tensor(scheme.tag_types, device=logits.device)  # (tags,); -1 for O
    is_outside = tag_types == -1  # (tags,)
    # The tags that a word labelled `O` may have: `O` itself, and those of the types that its row does not annotate.
    possible = ~annotated_types.bool()[:, tag_types.clamp(min=0)] | is_outside  # (batch, tags)
    log_probs = logits.log_softmax(-1)  # (batch, tokens, tags)
    of_possible = log_probs.masked_fill(~possible[:, None], -torch.inf).logsumexp(-1)  # (batch, tokens)
    # The labels that name one tag count as in plain cross-entropy; -100, ignored there, also covers the others.
    total = summed_cross_entropy(logits, labels.masked_fill(labels == outside, -100))  # ()
    return total - of_possible.masked_fill(labels != outside, 0.0).sum()  # ()
