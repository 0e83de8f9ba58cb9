"""`configuration_tsn.py`: any config.json makes a configuration that can be used, or an error that says what is wrong.

What can be used is built on the meta device, where weights take no memory.
"""

import copy
import json
import math
import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from configuration_tsn import TASKS, TSNConfig
from modeling_tsn import TSNModel

FOLDER = tempfile.TemporaryDirectory()
PATH = Path(FOLDER.name) / "config.json"
SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SOUND = {
    "model_type": "tsn",
    "backbone_config": {"model_type": "bert", **SMALL, "hidden_dropout_prob": 0.1, "layer_norm_eps": 1e-12},
    "topic_labels": ["O", "B-T", "I-T", "E-T", "S-T"],
    "ner_labels": ["O", "PER", "LOC"],
    "ner_scheme": "IO",
    "sentiment_labels": ["bad", "good"],
    "loss_weights": {"topic": 1, "ner": 1.0, "sentiment": 0},
    "temperatures": {"topic": 1, "ner": 1.5, "sentiment": 0.5},
    "pooling": "mean",
    "chunk_words": 50,
    "head_dropout": 0.1,
    "initializer_range": 0.02,
}
TRAPS = {  # each would run code, leave the folder or decide what is the user's to decide
    "trust_remote_code": True,
    "auto_map": {"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap"},
    "custom_pipelines": {"x": {"impl": "trap.Trap"}},
    "_name_or_path": "../trap",
    "attn_implementation": "trap/kernel",
    "_attn_implementation": "trap/kernel",
    "_attn_implementation_internal": "trap/kernel",
    "experts_implementation": "trap/kernel",
    "transformers_weights": "../trap.safetensors",
}
_odd = st.sampled_from(
    [
        0,
        -1,
        1,
        3,
        10**12,
        10**400,
        1e9,
        1e-320,
        True,
        None,
        math.nan,
        math.inf,
        -0.0,
        "",
        "50",
        "O",
        "bert",
        [],
        {},
        ["O"],
        ["a", "a"],
    ]
)
_value = st.recursive(
    _odd | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
_backbone_keys = [
    *SOUND["backbone_config"], "max_position_embeddings", "type_vocab_size", "pad_token_id", "hidden_act",
    "is_decoder", "num_labels", "id2label", "label2id", "dtype", "torch_dtype", "pruned_heads", "is_encoder_decoder",
    "to_dict", "chunk_size_feed_forward", "output_attentions", "return_dict", "attribute_map", "dim",
]  # fmt: skip
_keys = [
    *SOUND,
    *_backbone_keys,
    "use_bfloat16",
    "problem_type",
    "architectures",
    "topic_scheme",
    "_check",
    "max_tokens",
]
_model_types = st.sampled_from(
    ["bert", "distilbert", "roberta", "albert", "electra", "xlnet", "gpt2", "t5", "tsn", "vit"]
)


@st.composite
def contents(draw):
    """A config.json with a few settings changed, and traps put anywhere."""
    content = copy.deepcopy(SOUND)
    content["backbone_config"]["model_type"] = draw(st.sampled_from(["bert", "bert"]) | _model_types)
    for key in draw(st.lists(st.sampled_from(_backbone_keys), max_size=2)):
        content["backbone_config"][key] = draw(_value)
    for key in draw(st.lists(st.sampled_from(list(TRAPS)), max_size=2)):
        place = draw(st.sampled_from(["top", "backbone", "within"]))
        inner = content["backbone_config"]
        {"top": content, "backbone": inner, "within": inner.setdefault("text_config", {})}[place][key] = TRAPS[key]
    for key in draw(st.lists(st.sampled_from(_keys), max_size=2)):
        content[key] = draw(_value)
    return content


def check(config):
    assert len(config.topic_scheme().types) == 1 and config.entity_scheme().types
    assert len(set(config.sentiment_labels)) == len(config.sentiment_labels) > 1
    assert set(config.temperatures) == set(config.loss_weights) == set(TASKS)
    assert all(0 < value < 1e6 for value in config.temperatures.values())
    assert type(config.chunk_words) is int and config.chunk_words > 0 and 0 <= config.head_dropout < 1
    assert config.max_tokens is None or config.max_tokens > -1
    assert "trap" not in json.dumps(config.backbone_config.to_dict(), default=str)
    assert "trap/kernel" not in json.dumps(config.to_dict(), default=str)
    assert config._attn_implementation is None and getattr(config, "transformers_weights", None) is None


def build(config):
    try:
        with torch.device("meta"):
            model = TSNModel(config)
    except (ValueError, ImportError):
        return
    assert model.topic_head.out_features == len(config.topic_labels)
    assert model.sentiment_head.out_features == len(config.sentiment_labels)


@given(contents())
def holds(content):
    PATH.write_text(json.dumps(content), encoding="utf-8")
    try:
        config = TSNConfig.from_pretrained(FOLDER.name)
    except (ValueError, OSError) as error:
        assert str(error)
        return
    check(config)
    build(config)
