"""`configuration_tsn.py`: what is saved is what is loaded, and what does not fit is refused."""

import copy
import json

import pytest
import torch
import transformers
from transformers import AutoModel, BertConfig, DistilBertConfig, RobertaConfig, T5Config

from configuration_tsn import DEFAULT_BACKBONE, TASKS, TSNConfig
from modeling_tsn import TSNModel
from tests.conftest import backbone_config

FIELDS = (
    *("topic_labels", "ner_labels", "sentiment_labels", "ner_scheme", "loss_weights"),
    *("pooling", "chunk_words", "head_dropout", "temperatures", "initializer_range"),
)
SMALL = {
    **{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 16, "max_position_embeddings": 20},
}
CONFIGS = {
    "defaults": {},
    "all else": {
        "backbone_config": {"model_type": "bert", **SMALL},
        "topic_labels": ["S-KEY", "B-KEY", "I-KEY", "E-KEY", "O"],
        "ner_labels": ["O", "GENE", "DRUG"],
        "ner_scheme": "IO",
        "sentiment_labels": ["bad", "good"],
        "loss_weights": {"topic": 1, "ner": 0, "sentiment": 2.5},
        "pooling": "cls",
        "chunk_words": 120,
        "head_dropout": 0,
        "temperatures": {"topic": 1.5, "ner": 1, "sentiment": 0.7},
        "initializer_range": 0.1,
    },
}


def values(config):
    """All that makes the model, as plain values."""
    backbone = config.backbone_config.to_dict()
    # What each version of transformers adds on its own when it reads or writes.
    added = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    own = {name: getattr(config, name) for name in FIELDS}
    return own | {"backbone": {k: v for k, v in backbone.items() if k not in added}}


# Saving and loading


@pytest.mark.parametrize("arguments", CONFIGS.values(), ids=CONFIGS)
def test_round_trips(arguments, tmp_path):
    config = TSNConfig(**arguments)
    for name in FIELDS:
        if name in arguments:
            assert getattr(config, name) == arguments[name]
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["model_type"] == "tsn"
    assert saved["backbone_config"]["model_type"] == config.backbone_config.model_type
    copies = [TSNConfig.from_dict(config.to_dict()), TSNConfig.from_pretrained(tmp_path), copy.deepcopy(config)]
    for other in copies:
        assert values(other) == values(config)
        assert type(other.backbone_config) is type(config.backbone_config)
        assert other.to_json_string() == TSNConfig.from_dict(config.to_dict()).to_json_string()


def test_other_values_survive_too(tmp_path):
    TSNConfig(custom_pipelines={"a": 1}, output_hidden_states=True).save_pretrained(tmp_path)
    loaded = TSNConfig.from_pretrained(tmp_path)
    assert loaded.custom_pipelines["a"] == 1 and loaded.output_hidden_states is True


def test_defaults():
    config = TSNConfig()
    assert config.loss_weights == {"topic": 0.7, "ner": 0.1, "sentiment": 0.2}
    assert tuple(config.loss_weights) == TASKS and config.temperatures == dict.fromkeys(TASKS, 1)
    assert config.topic_labels == ["O", "B-TOPIC", "I-TOPIC", "E-TOPIC", "S-TOPIC"]
    assert config.ner_labels == ["O"] + [f"{p}-{name}" for name in ("PER", "LOC", "ORG", "MISC") for p in "BIES"]
    assert config.sentiment_labels == ["negative", "neutral", "positive"]
    assert (config.ner_scheme, config.pooling, config.chunk_words) == ("BIOES", "mean", 50)
    # The shape of distilbert-base-multilingual-cased, from its own config.json.
    backbone = config.backbone_config
    assert DEFAULT_BACKBONE.endswith("distilbert-base-multilingual-cased") and backbone.model_type == "distilbert"
    assert (backbone.vocab_size, backbone.dim, backbone.n_layers, backbone.n_heads) == (119547, 768, 6, 12)
    assert (backbone.hidden_dim, backbone.max_position_embeddings) == (3072, 512)


def test_schemes():
    config = TSNConfig(ner_scheme="IO")
    assert config.ner_labels == ["O", "PER", "LOC", "ORG", "MISC"]
    assert config.entity_scheme().types == ["PER", "LOC", "ORG", "MISC"]
    assert (config.entity_scheme().scheme, config.topic_scheme().scheme) == ("IO", "BIOES")
    assert config.topic_scheme().types == ["TOPIC"]
    assert TSNConfig().entity_scheme().scheme == "BIOES"


def test_two_configurations_share_nothing():
    labels, weights = ["bad", "good"], {"topic": 1, "ner": 1, "sentiment": 1}
    for arguments in ({}, {"sentiment_labels": labels, "loss_weights": weights}):
        one, two = TSNConfig(**arguments), TSNConfig(**arguments)
        before = copy.deepcopy(values(two))
        one.topic_labels.append("X")
        one.ner_labels.clear()
        one.sentiment_labels.append("mixed")
        one.loss_weights["topic"] = 9
        one.backbone_config.vocab_size = 3
        assert values(two) == before
    assert labels == ["bad", "good"] and weights == {"topic": 1, "ner": 1, "sentiment": 1}


# What does not fit

TOPIC = ["O", "B-TOPIC", "I-TOPIC", "E-TOPIC", "S-TOPIC"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topic_labels": TOPIC[:4]}, "every type"),
        ({"topic_labels": ["O", "TOPIC"]}, "'TOPIC' is not a BIOES tag"),
        ({"topic_labels": []}, "must hold 'O'"),
        (
            {"topic_labels": TOPIC + [label.replace("TOPIC", "NAME") for label in TOPIC[1:]]},
            "topic_labels must tag one",
        ),
        ({"topic_labels": TOPIC + ["O"]}, "different"),
        ({"ner_labels": ["O", "PER"]}, "'PER' is not a BIOES tag"),
        ({"ner_labels": ["O", "B-PER", "I-PER"]}, "every type"),
        ({"ner_labels": ["PER", "LOC"], "ner_scheme": "IO"}, "must hold 'O'"),
        ({"ner_labels": ["O", "PER", "PER"], "ner_scheme": "IO"}, "different"),
        ({"ner_scheme": "BIO"}, "'BIOES' or 'IO', not 'BIO'"),
        ({"sentiment_labels": ["good", "good"]}, "sentiment_labels must be two or more different"),
        ({"sentiment_labels": ["good"]}, "sentiment_labels must be two or more different"),
        ({"sentiment_labels": []}, "sentiment_labels must be two or more different"),
        ({"loss_weights": {"topic": 1, "ner": 1}}, "loss_weights must give a number"),
        ({"loss_weights": {"topic": 1, "ner": 1, "sentiment": 1, "more": 1}}, "loss_weights must give a number"),
        ({"loss_weights": {"topic": -1, "ner": 1, "sentiment": 1}}, "loss_weights must give a number >= 0"),
        ({"loss_weights": {"topic": "1", "ner": 1, "sentiment": 1}}, "loss_weights must give a number"),
        ({"loss_weights": {"topic": float("nan"), "ner": 1, "sentiment": 1}}, "loss_weights must give a number"),
        ({"loss_weights": {"topic": float("inf"), "ner": 1, "sentiment": 1}}, "loss_weights must give a number"),
        ({"loss_weights": {}}, "loss_weights must give a number"),
        ({"sentiment_labels": [0, 1]}, "sentiment_labels must be two or more different names"),
        ({"pooling": "max"}, "pooling must be 'cls' or 'mean', not 'max'"),
        ({"pooling": None}, "pooling must be"),
        ({"chunk_words": 0}, "chunk_words must be a whole number >= 1, not 0"),
        ({"chunk_words": True}, "chunk_words must be a whole number"),
        ({"chunk_words": 50.0}, "chunk_words must be a whole number"),
        ({"chunk_words": None}, "chunk_words must be a whole number"),
        ({"head_dropout": 1}, "head_dropout must be a probability"),
        ({"head_dropout": -0.1}, "head_dropout must be a probability"),
        ({"head_dropout": "0.1"}, "head_dropout must be a probability"),
        ({"temperatures": {"topic": 1, "ner": 1}}, "temperatures must give a number > 0"),
        ({"temperatures": {"topic": 0, "ner": 1, "sentiment": 1}}, "temperatures must give a number > 0"),
        ({"temperatures": {"topic": "1", "ner": 1, "sentiment": 1}}, "temperatures must give a number > 0"),
        ({"temperatures": {"topic": float("nan"), "ner": 1, "sentiment": 1}}, "temperatures must give a number > 0"),
        ({"sentiment_labels": "abc"}, "sentiment_labels must be a list, not 'abc'"),
        ({"sentiment_labels": 3}, "sentiment_labels must be a list, not 3"),
        ({"sentiment_labels": {"bad": 1, "good": 2}}, "sentiment_labels must be a list"),
        ({"topic_labels": 7}, "topic_labels must be a list, not 7"),
        ({"ner_labels": "OAB", "ner_scheme": "IO"}, "ner_labels must be a list"),
        ({"ner_scheme": ["IO"]}, "'BIOES' or 'IO', not"),
        ({"loss_weights": [1, 2, 3]}, "loss_weights must be a dict"),
        ({"loss_weights": {"topic": True, "ner": 1, "sentiment": 1}}, "loss_weights must give a number"),
        ({"loss_weights": {"topic": 10**400, "ner": 1, "sentiment": 1}}, "loss_weights must give a number"),
        ({"temperatures": 3}, "temperatures must be a dict, not 3"),
        ({"temperatures": {"topic": 1e-320, "ner": 1, "sentiment": 1}}, "temperatures must give a number > 0"),
        ({"temperatures": {"topic": 10**400, "ner": 1, "sentiment": 1}}, "temperatures must give a number > 0"),
        ({"head_dropout": float("nan")}, "head_dropout must be a probability"),
        ({"head_dropout": False}, "head_dropout must be a probability"),
        ({"initializer_range": "x"}, "initializer_range must be a number"),
        ({"initializer_range": -1}, "initializer_range must be a number"),
        ({"backbone_config": {"model_type": ["bert"]}}, r"\['bert'\], which this transformers does not know"),
        ({"backbone_config": {"model_type": "tsn", "backbone_config": {"model_type": "tsn"}}}, "model_type 'tsn'"),
        ({"backbone_config": {"model_type": "nonsense"}}, "'nonsense', which this transformers does not know"),
        ({"backbone_config": {"vocab_size": 10}}, "model_type None"),
        ({"backbone_config": "bert-base-cased"}, "must be a configuration or a dict, not str"),
        ({"backbone_config": {"model_type": "t5"}}, "must be an encoder, but 't5'"),
        ({"backbone_config": {"model_type": "bart"}}, "must be an encoder, but 'bart'"),
        ({"backbone_config": T5Config()}, "must be an encoder, but 't5'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TSNConfig(**arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("vocab_size", value) for value in (-5, 0, "50", None, True, 10**12, 10**400)),
        *(("hidden_size", value) for value in (-16, 0, None, 10**6)),
        *(("num_attention_heads", value) for value in (-2, 0, 1.5)),
        *(("num_hidden_layers", value) for value in (-1, 10**5, 10**12)),
        *(("max_position_embeddings", value) for value in ("20", 10**12)),
        *(("hidden_dropout_prob", value) for value in (float("nan"), 7, -0.1)),
        *(("layer_norm_eps", value) for value in (float("nan"), float("inf"))),
        *(("pad_token_id", value) for value in ("x", [0])),
        ("type_vocab_size", 10**12),
    ],
)
def test_a_backbone_of_absurd_sizes_is_refused_before_anything_is_made_of_it(name, value):
    with pytest.raises(ValueError, match=f"backbone_config.*{name}"):
        TSNConfig(backbone_config={"model_type": "bert", **SMALL, name: value})


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "evil"), ("hidden_size", 17)])
def test_a_backbone_that_cannot_be_built_says_why(name, value):
    with pytest.raises(ValueError, match="evil|multiple of the number of attention heads"):
        TSNModel(TSNConfig(backbone_config={"model_type": "bert", **SMALL, name: value}))


def test_sizes_of_the_top_level_do_not_pass_by_the_check():
    """The backbone owns them; one that is set from the top, as `vocab_size` can be, is looked at too."""
    with pytest.raises(ValueError, match="vocab_size must be a whole number"):
        TSNConfig(backbone_config={"model_type": "bert", **SMALL}, vocab_size=-1)


def test_a_wrong_file_is_refused(tmp_path):
    TSNConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pooling": "last"}))
    with pytest.raises(ValueError, match="pooling must be"):
        TSNConfig.from_pretrained(tmp_path)


def test_the_inner_size_of_another_encoder_is_looked_at_too():
    with pytest.raises(ValueError, match="backbone_config: hidden_dim is too large"):
        TSNConfig(backbone_config={"model_type": "distilbert", "hidden_dim": 10**12})


def test_the_commit_that_transformers_notes_stays_with_the_configuration():
    """By it, the weights and the tokenizer are loaded of the same commit."""
    config = TSNConfig.from_dict({"model_type": "tsn", "_commit_hash": "abc"})
    assert transformers.__version__ > "5" or config._commit_hash == "abc"


@pytest.mark.parametrize("value", [None, 1, "true", []])
def test_a_head_is_there_or_not(value):
    with pytest.raises(ValueError, match="topic_sentiment_head must be true or false"):
        TSNConfig(topic_sentiment_head=value)


def test_a_strangers_file_decides_nothing_about_code():
    untrusted = {
        "trust_remote_code": True,
        "auto_map": {"AutoModel": "evil--evil.Model"},
        "custom_pipelines": {"x": {}},
        "_name_or_path": "someone/else",
        "is_local": True,
        "_commit_hash": "abc",
    }
    config = TSNConfig(backbone_config={"model_type": "bert", **SMALL, **untrusted})
    backbone = config.backbone_config
    for name in ("trust_remote_code", "auto_map", "custom_pipelines", "is_local"):
        assert not hasattr(backbone, name)
    assert backbone._name_or_path == "" and getattr(backbone, "_commit_hash", None) is None
    saved = json.dumps(config.to_dict()["backbone_config"])
    assert not any(trace in saved for trace in ("evil", "someone/else", "trust_remote_code", "custom_pipelines"))
    assert backbone.hidden_size == 16  # and the rest is kept


HIDING = {"topic_scheme": 4, "_check": 3, "max_tokens": 5, "hidden_size": 7, "to_dict": 1}  # names of methods
KERNELS = {
    **dict.fromkeys(("attn_implementation", "_attn_implementation"), "evil/kernel"),
    **dict.fromkeys(("_attn_implementation_internal", "experts_implementation"), "evil/kernel"),
}


@pytest.mark.parametrize("where", ["top", "backbone", "within the backbone"])
def test_a_strangers_file_names_no_kernels_no_weights_and_no_methods(where, tmp_path):
    """`"attn_implementation": "org/name"` is code of a Hub repository, which transformers would load and run."""
    values = {"model_type": "tsn", "backbone_config": {"model_type": "bert", **SMALL}}
    put = {**KERNELS, "transformers_weights": "../other.safetensors", "num_labels": 10**9, **HIDING}
    if where == "top":
        values |= put | {"return_dict": False, "attribute_map": {"pooling": "x"}, "sub_configs": 5}
    elif where == "backbone":
        del put["hidden_size"]  # which there is a setting
        values["backbone_config"] |= put
    else:
        values["backbone_config"]["text_config"] = KERNELS
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = TSNConfig.from_pretrained(tmp_path)
    model = TSNModel(config).eval()
    assert "evil" not in json.dumps(config.to_dict()) and "other.safetensors" not in json.dumps(config.to_dict())
    assert config._attn_implementation in (None, "sdpa") and model.backbone.config._attn_implementation == "sdpa"
    assert config.topic_scheme().types == ["TOPIC"] and (config.max_tokens, config.hidden_size) == (20, 16)
    assert len(config.id2label) == len(config.backbone_config.id2label) == 2
    assert model(torch.ones(1, 4, dtype=torch.long)).topic_logits.shape == (1, 4, 5)


@pytest.mark.parametrize("where", ["top", "backbone"])
@pytest.mark.parametrize("values", [{"dtype": "evil"}, {"dtype": "load"}, {"dtype": []}, {"id2label": "abc"}])
def test_what_transformers_stumbles_over_is_a_clear_error(where, values, tmp_path):
    content = {"model_type": "tsn", "backbone_config": {"model_type": "bert", **SMALL}}
    (content if where == "top" else content["backbone_config"]).update(values)
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="."):
        TSNConfig.from_pretrained(tmp_path)


def test_the_callers_dict_stays_as_it_was():
    values = {"model_type": "bert", "auto_map": {}, **SMALL}
    before = copy.deepcopy(values)
    TSNConfig(backbone_config=values)
    assert values == before


# What transformers and the pipeline read


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_the_backbone_owns_its_sizes(name):
    config = TSNConfig(backbone_config=backbone_config(name, 100))
    assert (config.vocab_size, config.hidden_size) == (100, 32)
    assert (config.num_hidden_layers, config.num_attention_heads) == (2, 4)
    config.vocab_size = 123
    assert config.backbone_config.vocab_size == config.vocab_size == 123
    assert config.to_dict()["backbone_config"]["vocab_size"] == 123


@pytest.mark.parametrize(
    ("backbone", "tokens"),
    [
        (BertConfig(), 512),
        (DistilBertConfig(max_position_embeddings=77), 77),
        (RobertaConfig(max_position_embeddings=514), 512),  # roberta-base
        (RobertaConfig(max_position_embeddings=514, pad_token_id=0), 513),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "xlnet"}, None),  # relative positions only
    ],
)
def test_max_tokens(backbone, tokens):
    assert TSNConfig(backbone_config=backbone).max_tokens == tokens


EXTRA = {
    "luke": {"entity_vocab_size": 10},
    "longformer": {"attention_window": 4},
    "esm": {"pad_token_id": 1},
    "lilt": {"hidden_size": 24},  # six coordinates share it
}


@pytest.mark.parametrize(
    "model_type",
    [
        *("bert", "electra", "roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text", "albert"),
        *("roberta-prelayernorm", "ibert", "longformer", "luke", "esm", "lilt", "markuplm"),
    ],
)
def test_every_encoder_takes_max_tokens(model_type):
    """Asked of the encoders themselves: the longest chunk that the pipeline makes must not crash them."""
    config = TSNConfig(backbone_config={"model_type": model_type, **SMALL, **EXTRA.get(model_type, {})})
    encoder = AutoModel.from_config(config.backbone_config).eval()
    with torch.no_grad():
        encoder(torch.full((1, config.max_tokens), 7))
        with pytest.raises((IndexError, RuntimeError)):  # and it is no shorter than it has to be
            encoder(torch.full((1, config.max_tokens + 1), 7))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_backbone_dtype_makes_no_model_of_two_types(dtype):
    """Half-precision encoders say so in their configuration, which becomes a part of ours."""
    config = TSNConfig(backbone_config={"model_type": "bert", **SMALL, "dtype": dtype})
    model = TSNModel(config).eval()
    assert len({weight.dtype for weight in model.parameters()}) == 1
    assert model(torch.ones(1, 4, dtype=torch.long)).topic_logits.shape == (1, 4, 5)
