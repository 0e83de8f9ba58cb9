"""`modeling_tsn.py`: what is saved is what is loaded, and nothing is made up where the file lacks it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BitsAndBytesConfig, pipeline

from modeling_tsn import TSNModel
from tests.conftest import make_model
from tests.runtime.test_modeling import logits, tokenized
from tsn.hub.folder import write_hub_folder


@pytest.fixture
def inputs(tokenizer):
    return tokenized(tokenizer)


def load_here(folder, **kwargs):
    return TSNModel.from_pretrained(folder, **kwargs)


def load_remote(folder, **kwargs):
    return AutoModel.from_pretrained(folder, trust_remote_code=True, **kwargs)


both_paths = pytest.mark.parametrize("load", [load_here, load_remote])


def test_round_trip_is_bit_exact(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = TSNModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training and loaded.dtype == torch.float32
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(logits(loaded(**inputs)), logits(model(**inputs))))


@both_paths
def test_a_hub_folder_holds_halves_and_loads_as_float32(hub_folder, tokenizer, inputs, load):
    stored = load_file(hub_folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert json.loads((hub_folder / "config.json").read_text())["dtype"] == "float32"
    original = make_model("bert", len(tokenizer))  # as the fixture made it: the same seed
    loaded = load(hub_folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    state = loaded.state_dict()
    assert state.keys() == original.state_dict().keys() == stored.keys()
    for name, value in original.state_dict().items():
        assert torch.equal(state[name], value.half().float()), name
    original.load_state_dict({name: value.half().float() for name, value in original.state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(logits(loaded(**inputs)), logits(original(**inputs))))


def edited(hub_folder, folder, change):
    """A copy of a Hub folder whose weights went through `change`."""
    shutil.copytree(hub_folder, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@both_paths
@pytest.mark.parametrize("key", ["topic_head.weight", "sentiment_head.bias", "backbone.embeddings.LayerNorm.weight"])
def test_missing_weights_are_an_error_that_names_them(hub_folder, tmp_path, load, key):
    folder = edited(hub_folder, tmp_path / "incomplete", lambda weights: weights.pop(key))
    with pytest.raises(ValueError, match=f"lacks 1 of the model's weights.*{key}"):
        load(folder)
    with pytest.raises(ValueError, match=key):
        load(folder, output_loading_info=True)


@both_paths
def test_labels_that_do_not_fit_the_weights_are_an_error(hub_folder, tmp_path, load):
    folder = edited(hub_folder, tmp_path / "relabelled", lambda weights: None)
    config = json.loads((folder / "config.json").read_text())
    config["sentiment_labels"] = ["awful", "bad", "good", "great"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, RuntimeError), match="size mismatch|mismatch|shape"):
        load(folder)


@both_paths
@pytest.mark.parametrize("damage", ["truncated", "empty", "pointer", "page"])
def test_damaged_weights_are_an_oserror(hub_folder, tmp_path, load, damage):
    folder = edited(hub_folder, tmp_path / "damaged", lambda weights: None)
    whole = (folder / "model.safetensors").read_bytes()
    contents = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",  # cloned without git-lfs
        "page": b"<!DOCTYPE html><html><body>Please log in</body></html>",
    }
    (folder / "model.safetensors").write_bytes(contents[damage])
    with pytest.raises(OSError):
        load(folder)


@both_paths
def test_pickled_weights_are_not_read(hub_folder, tmp_path, load):
    folder = edited(hub_folder, tmp_path / "pickled", lambda weights: None)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for arguments in ({}, {"use_safetensors": False}):  # not even when asked to
        with pytest.raises(OSError, match="safetensors"):
            load(folder, **arguments)


def test_from_backbone_takes_the_encoder_as_it_is(backbone_folder, inputs):
    model = TSNModel.from_backbone(str(backbone_folder), pooling="cls", ner_scheme="IO").eval()
    encoder = AutoModel.from_pretrained(backbone_folder).eval()
    state = model.backbone.state_dict()
    assert not any(name.startswith("pooler") for name in state)  # no head reads it
    for name, value in encoder.state_dict().items():
        assert name.startswith("pooler.") or torch.equal(state[name], value), name
    output = model(**inputs, output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], encoder(**inputs).last_hidden_state)
    assert model.config.pooling == "cls" and output.ner_logits.shape[-1] == 5
    for head in (model.topic_head, model.ner_head, model.sentiment_head):
        assert 0.005 < head.weight.std() < 0.05 and (head.bias == 0).all()  # initializer_range is 0.02


def quantized(bits, **options):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, **options)
    return config, {8: bitsandbytes.nn.Linear8bitLt, 4: bitsandbytes.nn.Linear4bit}[bits]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@both_paths
def test_quantized_encoders_keep_whole_heads(tokenizer, inputs, tmp_path, bits, dtype, load):
    config, linear = quantized(bits)
    model = make_model("bert", len(tokenizer), topic_sentiment_head=True)
    write_hub_folder(model, tokenizer, tmp_path)
    loaded = load(tmp_path, quantization_config=config, dtype=dtype).eval()
    heads = {name: module for name, module in loaded.named_modules() if name.endswith("_head")}
    assert len(heads) == 4 and {type(head) for head in heads.values()} == {torch.nn.Linear}
    for name, head in heads.items():
        torch.testing.assert_close(head.weight.float(), getattr(model, name).weight, atol=0.02, rtol=0.01)
    encoder = [m for m in loaded.backbone.modules() if isinstance(m, torch.nn.Linear)]
    assert len(encoder) == 12 and {type(m) for m in encoder} == {linear}
    for a, b in zip(logits(loaded(**inputs)), logits(model(**inputs))):
        assert (a.float() - b).abs().mean() < 0.5  # rounded, not random


@pytest.mark.parametrize("bits", [8, 4])
def test_heads_stay_whole_beside_what_the_user_leaves_out(hub_folder, inputs, tmp_path, bits):
    config, linear = quantized(bits, llm_int8_skip_modules=["query"])
    options = {"quantization_config": config}
    pipe = pipeline("topic-sentiment-ner", model=str(hub_folder), trust_remote_code=True, model_kwargs=options)
    kinds = {n.rpartition(".")[2]: type(m) for n, m in pipe.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert kinds["query"] is kinds["topic_head"] is kinds["ner_head"] is kinds["sentiment_head"] is torch.nn.Linear
    assert kinds["key"] is linear
    pipe.model.save_pretrained(tmp_path)  # with its quantization
    again = load_remote(tmp_path, dtype=torch.float32)
    assert (
        type(again.sentiment_head) is torch.nn.Linear
        and type(again.backbone.encoder.layer[0].attention.self.key) is linear
    )
    assert all(torch.equal(a, b) for a, b in zip(logits(again(**inputs)), logits(pipe.model(**inputs))))


def test_resized_embeddings_are_saved(model, inputs, tmp_path):
    size = model.config.vocab_size
    before = logits(model(**inputs))
    model.resize_token_embeddings(size + 7)
    assert model.config.vocab_size == model.config.backbone_config.vocab_size == size + 7
    assert model.get_input_embeddings().weight.shape == (size + 7, 32)
    assert all(torch.equal(a, b) for a, b in zip(before, logits(model(**inputs))))
    model.save_pretrained(tmp_path)
    loaded = TSNModel.from_pretrained(tmp_path)
    new = torch.tensor([[2, size + 6, 3]])
    assert loaded.config.vocab_size == size + 7
    assert torch.equal(loaded(new).topic_logits, model(new).topic_logits)


def test_set_input_embeddings(model):
    table = torch.nn.Embedding(9, 32)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table
    assert model(torch.tensor([[8, 0]])).topic_logits.shape == (1, 2, 5)
