"""`lora.py` and `train.py --lora`: adapters in fp32 and in 8 bits, merging, going on, several over one base."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, RobertaConfig

import train
from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, backbone_config, make_model, make_tokenizer
from tests.training.test_train import options, run_script, steps
from tsn.hub.folder import write_hub_folder
from tsn.training.arguments import parse_arguments
from tsn.training.lora import add_adapter, attention_projections, base_sha256, load_adapter, merge_adapter
from tsn.training.model import build_model

LOUD = ["--learning_rate", "0.05"]  # an adapter that four steps move far


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A TSN model in fp32, so that what is loaded from it is it to the bit."""
    folder = tmp_path_factory.mktemp("base")
    write_hub_folder(make_model("bert", len(make_tokenizer())), make_tokenizer(), folder, torch.float32)
    return folder


def run(base, data, out, *more):
    train.main([*options(base, data, out, *steps(4, 2), "--validation_file", data), "--lora", *LOUD, *map(str, more)])


@pytest.fixture(scope="module", params=[[], ["--load_in_8bit"]], ids=["fp32", "8bit"])
def trained(request, tmp_path_factory, base, data_file):
    out = tmp_path_factory.mktemp("lora")
    run(base, data_file, out, *request.param)
    return out


def logits(model, texts=TEXTS):
    inputs = make_tokenizer()(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    names = ("topic_logits", "ner_logits", "sentiment_logits", "topic_sentiment_logits")
    return [outputs[name] for name in names]


def assert_equal(left, right, **tolerance):
    for one, other in zip(left, right):
        torch.testing.assert_close(one, other, **tolerance)


def differ(left, right):
    return max((one - other).abs().max().item() for one, other in zip(left, right))


@pytest.mark.parametrize(
    "name, expected", [("bert", ["key", "query", "value"]), ("distilbert", ["k_lin", "q_lin", "v_lin"])]
)
def test_projections_by_the_backbones_own_names(name, expected):
    model = make_model(name)
    assert attention_projections(model) == expected
    adapted = add_adapter(model)
    touched = {n.rpartition(".lora_A")[0].rpartition(".")[2] for n, _ in adapted.named_parameters() if ".lora_A" in n}
    assert touched == set(expected)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.1)


def test_other_encoders_and_unknown_ones():
    config = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = TSNModel(TSNConfig(backbone_config=RobertaConfig(intermediate_size=32, **config)))
    assert attention_projections(model) == ["key", "query", "value"]
    for layer in model.backbone.encoder.layer:
        layer.attention.self.mine = layer.attention.self.query
        del layer.attention.self.query
    with pytest.raises(ValueError, match="--lora_modules, of: .*mine"):
        attention_projections(model)


def test_heads_are_trained_and_the_encoder_is_not():
    adapted = add_adapter(make_model())
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trainable)
    assert sum("_head.modules_to_save" in name for name in trainable) == 6


def test_a_head_for_the_sentiment_of_topics_is_trained_as_the_others():
    adapted = add_adapter(make_model(topic_sentiment_head=True))
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert sum("topic_sentiment_head.modules_to_save" in name for name in trainable) == 2


def test_dropout_of_the_encoder_is_not_the_adapters(base, data_file, tmp_path):
    more = ["--lora", "--encoder_dropout", "0", "--lora_dropout", "0.3"]
    arguments, lora, _, training = parse_arguments(options(base, data_file, tmp_path, *more))
    model = build_model(arguments, lora, training.device)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    adapters = {rate for name, rate in rates.items() if "lora_dropout" in name}
    encoder = {rate for name, rate in rates.items() if ".backbone." in name and "lora_dropout" not in name}
    assert (adapters, encoder) == ({0.3}, {0.0})
    assert TSNConfig.from_pretrained(base).backbone_config.hidden_dropout_prob == 0.1, "of others' trainings"


def test_adapter_has_a_folder_of_its_own_in_pefts_format(trained):
    assert {path.name for path in (trained / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "config.json",
    }  # fmt: skip
    assert not list(trained.glob("adapter_*")), "transformers would load it at the root without a word"
    weights = load_file(trained / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name or "_head." in name for name in weights)
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {"query", "key", "value"}
    assert config["base_model_name_or_path"].startswith("base") and "/" not in config["base_model_name_or_path"]
    written = [*(trained / "adapter").glob("*.json"), *trained.glob("checkpoint-*/adapter_config.json")]
    assert len(written) > 2 and not [path for path in written if str(trained.parent) in path.read_text()]


def test_merged_folder_gives_the_adapters_outputs(trained, base):
    merged = TSNModel.from_pretrained(trained)
    adapted = PeftModel.from_pretrained(TSNModel.from_pretrained(base), trained / "adapter")
    assert_equal(logits(merged), logits(adapted), atol=1e-5, rtol=1e-5)
    assert differ(logits(merged), logits(TSNModel.from_pretrained(base))) > 0.1, "the adapter does nothing"
    assert {w.dtype for w in load_file(trained / "model.safetensors").values()} == {torch.float32}


def test_merging_moves_what_was_adapted_alone(trained, base):
    before, after = (load_file(folder / "model.safetensors") for folder in (base, trained))
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert before.keys() == after.keys()
    assert moved == {
        n for n in before if "_head." in n or n.split(".")[-2:-1][0] in ("query", "key", "value") and "weight" in n
    }


def test_nothing_mentions_quantization(trained):
    for path in [*trained.glob("*.json"), *(trained / "adapter").glob("*.json")]:
        assert "quant" not in path.read_text(), path


def test_merge_adapter_makes_the_same_folder(tmp_path, trained, base):
    train.main(["--merge_adapter", str(trained / "adapter"), "--backbone", str(base), "--output_dir", str(tmp_path)])
    merged, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, trained))
    assert all(torch.equal(merged[name], weight) for name, weight in expected.items())
    one, other = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, trained))
    assert one == other and set(one["temperatures"].values()) != {1.0}
    pipe = TSNPipeline(TSNModel.from_pretrained(tmp_path), make_tokenizer())
    assert pipe(TEXTS[0])["sentiment"]["label"]


def test_adapter_on_an_encoder_brings_its_heads(tmp_path, backbone_folder, data_file):
    out = tmp_path / "lora"
    run(backbone_folder, data_file, out, "--pooling", "cls", "--entity_types", "PER", "LOC", "ORG", "MISC", "PRODUCT")
    train.main(
        ["--merge_adapter", str(out / "adapter"), "--backbone", str(backbone_folder), "--output_dir", str(tmp_path)]
    )
    one, other = TSNModel.from_pretrained(out), TSNModel.from_pretrained(tmp_path)
    assert_equal(logits(one), logits(other), rtol=0, atol=0)
    assert other.config.pooling == "cls" and "S-PRODUCT" in other.config.ner_labels
    run(
        backbone_folder,
        data_file,
        tmp_path / "on",
        "--adapter",
        out / "adapter",
        "--learning_rate",
        "0",
        "--head_learning_rate",
        "0",
    )
    assert_equal(logits(TSNModel.from_pretrained(tmp_path / "on")), logits(one), rtol=0, atol=0)


def test_going_on_from_an_adapter(tmp_path, trained, base, data_file):
    still = ["--adapter", trained / "adapter", "--learning_rate", "0", "--head_learning_rate", "0"]
    run(base, data_file, tmp_path / "still", *still)
    assert_equal(logits(TSNModel.from_pretrained(tmp_path / "still")), logits(TSNModel.from_pretrained(trained)))
    run(base, data_file, tmp_path / "on", "--adapter", trained / "adapter")
    old, new = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (trained, tmp_path / "on"))
    assert old.keys() == new.keys() and not any(torch.equal(old[n], new[n]) for n in old if "lora_B" in n)


def test_several_adapters_over_one_base(tmp_path, trained, base, data_file):
    run(base, data_file, tmp_path / "other", "--seed", "7")
    both = load_adapter(TSNModel.from_pretrained(base), trained / "adapter")
    both.load_adapter(str(tmp_path / "other" / "adapter"), "other")
    pipe = TSNPipeline(both.eval(), make_tokenizer())
    for name, folder in (("default", trained), ("other", tmp_path / "other"), ("default", trained)):
        both.set_adapter(name)
        expected = TSNModel.from_pretrained(folder)
        assert_equal(logits(both), logits(expected), atol=1e-5, rtol=1e-5)
        alone = TSNPipeline(expected.eval(), make_tokenizer())(TEXTS[1])
        assert pipe(TEXTS[1])["sentiment"]["label"] == alone["sentiment"]["label"]
    assert (
        differ(logits(TSNModel.from_pretrained(tmp_path / "other")), logits(TSNModel.from_pretrained(trained))) > 0.01
    )


def test_another_base_is_refused(tmp_path, trained, base, data_file):
    other = TSNModel.from_pretrained(base)
    expected = base_sha256(other)
    with torch.no_grad():
        other.backbone.embeddings.word_embeddings.weight[3, 3] += 1
    with pytest.raises(ValueError, match=rf"another base.*{expected}"):
        merge_adapter(other, trained / "adapter")
    write_hub_folder(other, make_tokenizer(), tmp_path / "other", torch.float32)
    with pytest.raises(ValueError, match="another base"):
        run(tmp_path / "other", data_file, tmp_path / "out", "--adapter", trained / "adapter", "--load_in_8bit")


@pytest.mark.parametrize("more", [["--lora_rank", "4"], ["--pooling", "cls"], ["--lora_modules", "query"]])
def test_an_adapter_brings_its_own_options(tmp_path, trained, base, data_file, more):
    with pytest.raises(ValueError, match=more[0][2:]):
        run(base, data_file, tmp_path, "--adapter", trained / "adapter", *more)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "config.json"])
def test_incomplete_adapters_are_named(tmp_path, trained, base, name):
    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / name).unlink()
    with pytest.raises(ValueError, match=name):
        load_adapter(TSNModel.from_pretrained(base), tmp_path / "adapter")


def test_eight_bits_need_an_adapter(base, data_file, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(options(base, data_file, tmp_path, "--load_in_8bit"))
    assert "--lora" in capsys.readouterr().err


def test_unknown_modules_are_an_error(base, data_file, tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        run(base, data_file, tmp_path, "--lora_modules", "nonsense")


def test_eight_bits_are_eight_bits(base):
    model, lora, _, training = parse_arguments(
        ["--backbone", str(base), "--lora", "--load_in_8bit", "--train_file", "x", "--output_dir", "x", "--use_cpu"]
    )
    adapted = build_model(model, lora, training.device)
    kinds = {n.rpartition(".")[2]: type(m).__name__ for n, m in adapted.get_base_model().backbone.named_modules()}
    assert (
        kinds["dense"] == "Linear8bitLt"
        and type(adapted.get_base_model().topic_head.original_module) is torch.nn.Linear
    )
    whole = TSNModel.from_pretrained(base)
    assert 0 < differ(logits(adapted), logits(whole)) < 0.1 * max(x.abs().max() for x in logits(whole))


@pytest.mark.slow
def test_bitsandbytes_is_silent(tmp_path, base, data_file):
    process = run_script(*options(base, data_file, tmp_path, *steps(2)), "--lora", "--load_in_8bit")
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0 and "MatMul8bitLt" not in errors and "gemm_4bit" not in errors


def test_backbones_in_eight_bits_keep_their_weights(tmp_path, tokenizer):
    """A custom initialisation would write over what was loaded."""
    from tsn.training.lora import eight_bits

    torch.manual_seed(0)
    encoder = AutoModel.from_config(backbone_config("distilbert", len(tokenizer)))
    encoder.save_pretrained(tmp_path)
    model = TSNModel.from_backbone(tmp_path, {"quantization_config": eight_bits()}).eval()
    inputs = tokenizer(TEXTS[:2], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids")
    with torch.no_grad():
        found = model.backbone(**inputs).last_hidden_state
        expected = encoder.eval()(**inputs).last_hidden_state
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
