"""Tiny encoders, tokenizers and data, made here: no test needs a network or the shipped weights."""

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only get in each other's way

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, DistilBertConfig, PreTrainedTokenizerFast, set_seed

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tsn.hub.folder import write_hub_folder

pytest_plugins = ["tests.record_tests", "tests.hub.release_workshop"]
settings.register_profile("tsn", deadline=None, max_examples=60, derandomize=True)
settings.register_profile(
    "fuzz", deadline=None, max_examples=1000
)  # python -m tests.fuzz, and to replay what it found
settings.load_profile("tsn")
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


TEXTS = [
    "Apple Pay arrived in Colombia on Tuesday. Customers love the new payment method.",
    "The screen of this laptop is great, but the battery life is awful!",
    "Ana Torres of Banco Azul spoke in Lima. Nobody asked about the interest rates.",
    "We study graph neural networks. Their training cost grows with the size of the graph.",
    "Waiter was rude; soup was cold. İstanbul café naïve 東京 привет שלום 🙂",
]


def make_tokenizer(model_max_length=64):
    """A WordPiece tokenizer in BERT's manner; not trained, as trainers break ties at random."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    text = normalizer.normalize_str(" ".join(TEXTS))
    letters = sorted(set("".join(text.split())) | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    whole = sorted(word for word in set(re.findall(r"[a-z]+", text)) if len(word) in (2, 3, 4, 5))
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *("##" + c for c in letters),
        *whole,
        "##er",
        "##ing",
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_byte_tokenizer(model_max_length=64):
    """A byte-level BPE tokenizer in RoBERTa's manner: cased, and one emoji is several tokens of the same offsets."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("i", "n"),
        ("in", "g"),
        ("a", "n"),
        ("e", "r"),
        ("Ġ", "A"),
        (".", "."),
    ]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def backbone_config(name, vocab_size, positions=64):
    """A tiny BERT or DistilBERT."""
    if name == "bert":
        return BertConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=positions,
        )
    return DistilBertConfig(
        vocab_size=vocab_size, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=positions
    )


def make_model(name="bert", vocab_size=200, positions=64, **config):
    """A TSN model with random weights; heads drawn widely, so that the labels differ from token to token."""
    set_seed(0)
    model = TSNModel(TSNConfig(backbone_config=backbone_config(name, vocab_size, positions), **config)).eval()
    with torch.no_grad():
        for head in (model.topic_head, model.ner_head, model.sentiment_head):
            head.weight.normal_(std=1.0)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def byte_tokenizer():
    return make_byte_tokenizer()


@pytest.fixture(params=["bert", "distilbert"])
def model(request, tokenizer):
    return make_model(request.param, len(tokenizer))


@pytest.fixture(scope="session")
def pipe(tokenizer):
    return TSNPipeline(make_model("bert", len(tokenizer)), tokenizer)


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory):
    """A complete Hub folder, as `train.py` writes it."""
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = make_tokenizer()
    write_hub_folder(make_model("bert", len(tokenizer)), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def onnx_folder(hub_folder, tmp_path_factory):
    """A Hub folder with ONNX files."""
    from tsn.quantization.export import export_onnx, quantize_onnx  # not every environment has ONNX

    folder = tmp_path_factory.mktemp("onnx") / "hub"
    shutil.copytree(hub_folder, folder)
    (folder / "onnx").mkdir()
    export_onnx(TSNModel.from_pretrained(folder), folder / "onnx" / "model.onnx")
    quantize_onnx(folder / "onnx" / "model.onnx", folder / "onnx", "avx512_vnni")
    return folder


@pytest.fixture(scope="session")
def openvino_folder(hub_folder, tmp_path_factory):
    """A Hub folder with OpenVINO files."""
    if not importlib.util.find_spec("nncf"):
        pytest.skip("needs NNCF")
    from tsn.quantization.with_openvino import OpenVinoBackend

    folder = tmp_path_factory.mktemp("openvino") / "hub"
    shutil.copytree(hub_folder, folder)
    (folder / "openvino").mkdir()
    tokenizer = make_tokenizer()
    chunks = [dict(tokenizer(text, truncation=True)) for text in TEXTS]
    OpenVinoBackend(TSNModel.from_pretrained(folder), folder / "openvino", chunks).quantize()
    return folder


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory):
    """A pretrained encoder as `--backbone` takes it."""
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = make_tokenizer()
    set_seed(0)
    AutoModel.from_config(backbone_config("bert", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def example_rows():
    """Annotated rows: all labels, one kind only, none of it."""

    def spans(text, phrases, **label):
        return [{"start": text.index(p), "end": text.index(p) + len(p), **label} for p in phrases]

    a, b, c, d, _ = TEXTS
    return [
        {"text": a, "topics": spans(a, ["payment method"]), "sentiment": "positive", "source": "news",
         "entities": spans(a, ["Apple Pay"], label="ORG") + spans(a, ["Colombia"], label="LOC")},
        {"text": b, "sentiment": "negative", "source": "reviews",
         "topics": spans(b, ["screen"], sentiment="positive") + spans(b, ["battery life"], sentiment="negative")},
        {"text": c, "entities": spans(c, ["Ana Torres"], label="PER") + spans(c, ["Banco Azul"], label="ORG")},
        {"text": d, "topics": spans(d, ["graph neural networks", "training cost"])},
        {"text": "Fine.", "sentiment": "neutral"},
        {"text": "Nothing is known of this text."},
    ]  # fmt: skip


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    """`example_rows` as JSON Lines, repeated to a few batches."""
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in example_rows() * 4), "utf-8")
    return path
