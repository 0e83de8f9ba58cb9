"""`tsn/training/data.py`: which rows are trained on, and data that cannot be trained on."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import train
from configuration_tsn import TSNConfig
from tests.conftest import example_rows, make_tokenizer
from tests.training.test_train import options, steps
from tsn.training.arguments import parse_arguments
from tsn.training.data import load_data


def test_bad_rows_stop_the_run_or_are_kept_aside(tmp_path, backbone_folder):
    data, out = tmp_path / "some.jsonl", tmp_path / "out"
    bad = {"text": "Hi", "sentiment": "furious"}
    data.write_text("".join(json.dumps(row) + "\n" for row in [*example_rows(), bad]))
    with pytest.raises(ValueError, match=r"some\.jsonl, row 7: .*furious"):
        train.main(options(backbone_folder, data, out, *steps(1)))
    train.main(options(backbone_folder, data, out, *steps(1), "--invalid_rows", "skip"))
    (kept,) = map(json.loads, (out / "invalid_rows.jsonl").read_text().splitlines())
    assert kept["row"] == bad and "row 7" in kept["error"]


def test_sampling_weights_choose_rows(tmp_path, backbone_folder, data_file, caplog):
    caplog.set_level("INFO", logger="train")
    train.main(options(backbone_folder, data_file, tmp_path, *steps(1), "--sampling_weights", "news=2", "examples=0"))
    assert "12 chunks" in caplog.text  # 4 of news, twice, and 4 of reviews
    for pairs in (["nonsense=1"], ["news=-1"], ["news"], ["news=many"]):
        with pytest.raises(ValueError, match="sampling"):
            train.main(options(backbone_folder, data_file, tmp_path, *steps(1), "--sampling_weights", *pairs))


AUGMENTED = ["--lower_case", "0.5", "--contrast", "1", "--common_nouns", "true", "--names", "1"]


def polar_rows(count=16):
    """Short rows of both polarities, which contrast joins."""
    for i in range(count):
        text, sentiment = (f"Fine {i} Screen", "positive") if i % 3 else (f"Bad {i} screen", "negative")
        topics = [{"start": text.lower().index("screen"), "end": len(text), "sentiment": sentiment}]
        yield {"text": text, "topics": topics, "language": "en", "source": f"s{i % 2}"}


@pytest.fixture
def polar_file(tmp_path):
    path = tmp_path / "polar.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in polar_rows()))
    return path


@pytest.mark.parametrize("streaming", [[], ["--streaming"]], ids=["whole", "streaming"])
def test_augmented_run_resumes_to_the_same_weights(tmp_path, backbone_folder, polar_file, streaming):
    """Copies and pairs are drawn anew when it resumes: the same seed must give the same rows."""
    more = [*steps(16, 9), *AUGMENTED, *streaming]  # beyond the first pass
    train.main(options(backbone_folder, polar_file, tmp_path / "whole", *more))
    shutil.copytree(tmp_path / "whole" / "checkpoint-9", tmp_path / "resumed" / "checkpoint-9")
    more += ["--resume_from_checkpoint", "last"]
    train.main(options(backbone_folder, polar_file, tmp_path / "resumed", *more))
    one, other = (load_file(tmp_path / name / "checkpoint-16" / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(one[name], weight) for name, weight in other.items())


def features_of(data_file, *more):
    """The rows' names that `train.py` would train on."""
    _, _, data, training = parse_arguments(options("-", data_file, "-", *more))
    features, _ = load_data(data, make_tokenizer(), TSNConfig(), training.seed)
    return features


def test_augmentation_is_of_the_training_data_alone(polar_file):
    plain, made, again = (features_of(polar_file, *more) for more in ([], AUGMENTED, AUGMENTED))
    _, _, data, training = parse_arguments(options("-", polar_file, "-", "--validation_file", polar_file, *AUGMENTED))
    _, validation = load_data(data, make_tokenizer(), TSNConfig(), training.seed)
    assert validation[:] == plain[:] and len(plain) == 16
    assert len(made) > 32 and made[:] == again[:] and "contrast/en" in made["source"]
    others = features_of(polar_file, *AUGMENTED, "--seed", 7)
    assert others[:] != made[:]


def test_rows_of_weight_0_are_in_no_joined_row(polar_file):
    features = features_of(polar_file, *AUGMENTED, "--sampling_weights", "s1=0", "contrast=2")
    rows = " ".join(features["row"][:])
    numbers = {int(number) for number in re.findall(r"row (\d+)", rows)}
    assert numbers and not {n for n in numbers if n % 2 == 0}, "rows 2, 4, ... have the source s1"
    assert " and " in rows and set(features["source"][:]) == {"s0/en", "contrast/en"}


@pytest.mark.parametrize(
    "name, content, columns",
    [
        ("other.jsonl", '{"text": "Hi", "label": 2}\n{"text": "Ho", "label": 1, "ner": []}\n', "text, label"),
        ("other.csv", "text,entities\nHi there,\"[('Hi', 'PER')]\"\n", "text, entities"),
        ("other.parquet", None, "text, polarity"),
        ("empty.jsonl", '{"text": "Hi", "topics": null, "sentiment": null}\n', "text, topics, sentiment"),
        ("types.jsonl", '{"text": "Hi", "entity_types": ["PER"]}\n', "text, entity_types"),
    ],
)
@pytest.mark.parametrize("role", ["train", "validation", "streaming"])
def test_data_without_a_label_are_an_error_before_training(
    tmp_path, data_file, backbone_folder, name, content, columns, role
):
    path, out = tmp_path / name, tmp_path / "out"
    if content is None:
        pq.write_table(pa.table({"text": ["Hi"], "polarity": [2]}), path)
    else:
        path.write_text(content)
    files = (data_file, "--validation_file", path) if role == "validation" else (path,)
    more = [*files[1:], *steps(1), *(["--streaming"] if role == "streaming" else [])]
    with pytest.raises(ValueError, match="nothing is annotated") as error:
        train.main(options(backbone_folder, files[0], out, *more))
    assert f"{path} has the columns {columns}" in str(error.value) and "entities" in str(error.value)
    assert not list(out.glob("*"))
