"""The curve: which rows it draws, what it makes of answers and seconds, and a whole run on a tiny model."""

import json

import pytest
import torch

from bench import curve, roofline
from bench.curve_figures import add_figures, combine, quality
from bench.curve_plot import plot
from bench.curve_texts import read_english, sample_sets
from bench.worker import Worker, available_cores
from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, example_rows
from tsn.hub.curve import METRICS, REFERENCE, tables

pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")


def labelled_rows(language="en"):
    """Two sources: one of topics and sentiments, one of entities."""
    some = [row for row in example_rows() if row.get("topics") and row.get("sentiment")]
    reviews = [{**row, "source": "reviews", "entities": None, "language": language} for row in some * 3]
    names = [{**row, "topics": None, "source": "names", "language": language} for row in example_rows()]
    named = [{**row, "sentiment": None} for row in names if row.get("entities")]
    rows = [*reviews, *named * 2]
    keys = ("text", "topics", "entities", "sentiment", "source", "language")
    return [{"id": f"{language}-{i}", **{key: row.get(key) for key in keys}} for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of the two test files, the second with rows in German alone."""
    folder = tmp_path_factory.mktemp("data")
    for name, language in (("test", "en"), ("test_wild", "de")):
        parquet.write_table(pyarrow.Table.from_pylist(labelled_rows(language)), folder / f"{name}.parquet")
    return folder


def test_each_set_has_the_same_number_of_rows_for_each_head(data):
    rows = read_english(data, TSNConfig())
    assert {row["language"] for row in rows} == {"en"} and len(rows) == len(labelled_rows())
    drawn, sets = sample_sets(rows, 2)
    assert sample_sets(rows, 2) == (drawn, sets)
    assert {metric: {name: len(some) for name, some in of.items()} for metric, of in sets.items()} == {
        "topic_f1": {"reviews": 2},
        "ner_f1": {"names": 2},
        "sentiment_macro_f1": {"reviews": 2},
        "topic_end_to_end_f1": {"reviews": 2},
    }
    assert len({row["id"] for row in drawn}) == len(drawn) == 4
    assert [row["source"] for row in drawn] == ["names", "reviews"] * 2  # they take turns
    assert all(drawn[i]["entities"] is not None for i in sets["ner_f1"]["names"])
    assert len(sample_sets(rows, 100)[0]) == len(rows)
    (data / "test_wild.parquet").rename(data / "hidden")
    with pytest.raises(OSError, match=r"has no test_wild\.parquet"):
        read_english(data, TSNConfig())
    (data / "hidden").rename(data / "test_wild.parquet")


def test_quality_is_the_mean_over_the_sets(data):
    rows, sets = sample_sets(read_english(data, TSNConfig()), 2)
    right = [
        {
            "topics": [{**topic, "word": "", "score": 1} for topic in row["topics"] or []],
            "entities": [{**e, "entity_group": e["label"]} for e in row["entities"] or []],
            "sentiment": {"label": row["sentiment"]},
        }
        for row in rows
    ]
    assert all(figure["mean"] == 1 for figure in quality(right, rows, sets).values())
    sets["topic_f1"]["none found"] = sets["topic_f1"]["reviews"][:1]
    wrong = [
        {**answer, "topics": []} if i in sets["topic_f1"]["none found"] else answer for i, answer in enumerate(right)
    ]
    found = quality(wrong, rows, sets, ["topic_f1"])
    assert found["topic_f1"]["sets"]["none found"] == 0 and 0 < found["topic_f1"]["sets"]["reviews"] < 1
    assert found["topic_f1"]["mean"] == found["topic_f1"]["sets"]["reviews"] / 2
    [both] = combine([{"topics": [{"start": 0, "end": 2}]}], [{"sentiment": {"label": "negative"}}])
    assert both["topics"] == [{"start": 0, "end": 2, "sentiment": "negative"}]


def example_record():
    """A run of three systems, of which the second is twice as fast as the first in each turn."""
    values = {metric: {"mean": 0.5, "sets": {"one": 0.25, "two": 0.75}} for metric in METRICS}

    def system(name, model, precision, seconds, quality):
        speed = {count: {"words": [100, 100], "seconds": seconds} for count in ("1", "2")}
        return {"name": name, "model": model, "precision": precision, "quality": quality, "speed": speed}

    return {
        "date": "2030-01-01",
        "machine": {"cpu": "A CPU", "cores": 2, "features": {"avx2": True}, "os": "An OS", "load": 0.1},
        "versions": {"torch": "1"},
        "rows_per_set": 2,
        "sets": dict.fromkeys(METRICS, ["one", "two"]),
        "texts": 4,
        "words": 200,
        "slices": 2,
        "limits": {count: {"fp32": 1e9, "bf16": 2e9, "int8": 4e9} for count in ("1", "2")},
        "operations_per_word": {"TSN": 5e6},
        "systems": [
            system("TSN, torch fp32", "TSN", "fp32", [1.0, 4.0], values),
            system("TSN, ONNX int8", "TSN", "int8", [0.5, 2.0], values),
            system("YAKE", None, None, [0.1, 0.1], {"topic_f1": values["topic_f1"]}),
            system("An encoder", None, None, [10.0, 10.0], {}),
        ],
        "left_out": ["TSN, ONNX fp32 (no onnx/model.onnx)", "another"],
    }


def test_ratios_are_taken_within_a_turn_and_shares_of_the_limit(tmp_path):
    record = example_record()
    add_figures(record)
    speed = record["systems"][1]["speed"]["1"]
    assert speed["times"] == {"median": 2, "min": 2, "max": 2}
    assert speed["per_second"] == {"median": 125, "min": 50, "max": 200}
    assert speed["of_limit"] == pytest.approx(125 * 5e6 / 4e9)
    assert "of_limit" not in record["systems"][2]["speed"]["1"]
    text = tables(json.loads(json.dumps(record)))
    assert "2.00 (2.00-2.00)" in text and "A CPU, avx2; 2 cores" in text and "(no onnx/model.onnx); another." in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    assert all(len({len(line) for line in block}) == 1 for block in blocks)
    assert [len(block) for block in blocks] == [6, 4, 5, 4, 4, 4]  # two lines of a head, and the systems
    plot(record, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_operations_of_the_model_are_those_that_torch_counts(hub_folder):
    from torch.utils.flop_counter import FlopCounterMode

    # Torch counts no fused attention on a CPU.
    model = TSNModel.from_pretrained(hub_folder, attn_implementation="eager").eval()
    ids = torch.randint(5, 100, (1, 20))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=ids)
    assert roofline.operations(model, [20]) == pytest.approx(counter.get_total_flops(), rel=0.001)
    assert roofline.operations(model, [20, 20, 3]) == 2 * roofline.operations(model, [20]) + roofline.operations(
        model, [3]
    )


@pytest.mark.slow
def test_the_limits_are_measured():
    limits = roofline.measure(64, 1, available_cores()[:1])
    assert limits.keys() == {"fp32", "bf16", "int8"} and all(limit > 1e6 for limit in limits.values())


@pytest.mark.slow
def test_a_worker_answers_as_the_pipeline_does_and_says_what_it_ended_with(hub_folder, tokenizer):
    cores = available_cores()[:1]
    worker = Worker({"folder": str(hub_folder), "options": {"dtype": "float32"}}, cores)
    seconds, answers = worker(TEXTS)
    worker.close()
    expected = TSNPipeline(model=TSNModel.from_pretrained(hub_folder).eval(), tokenizer=tokenizer)(TEXTS)
    spans = [[(topic["start"], topic["end"]) for topic in answer["topics"]] for answer in answers]
    assert spans == [[(topic["start"], topic["end"]) for topic in answer["topics"]] for answer in expected]
    assert seconds > 0 and answers[0].keys() == expected[0].keys()
    worker = Worker({"class": "Unknown"}, cores)
    with pytest.raises(RuntimeError, match="no system 'Unknown'"):
        worker(TEXTS)
    worker.close()


@pytest.mark.slow
def test_a_closed_worker_leaves_no_process():
    """What has no threads is run in several processes, which would go on without the one that started them."""
    pytest.importorskip("vaderSentiment")
    psutil = pytest.importorskip("psutil")
    worker = Worker({"class": "VaderSentiment"}, available_cores()[:1] * 2)
    worker(TEXTS)
    started = psutil.Process(worker.process.pid).children(recursive=True)
    worker.close()
    assert len(started) >= 2 and not psutil.wait_procs(started, timeout=60)[1]


def test_a_system_without_threads_gets_a_process_a_core():
    pytest.importorskip("vaderSentiment")
    from bench.others import VaderSentiment
    from bench.worker import InProcesses

    many = InProcesses("VaderSentiment", 2)
    assert many(TEXTS) == VaderSentiment()(TEXTS)
    many.pool.shutdown()


@pytest.mark.slow
def test_a_run_measures_what_is_there_and_says_what_is_not(hub_folder, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("vaderSentiment")
    pytest.importorskip("yake")
    chosen = {name: curve.OTHERS[name] for name in ("VADER", "YAKE")}
    monkeypatch.setattr(curve, "OTHERS", chosen)
    monkeypatch.setattr(curve, "ENGINES", {name: curve.ENGINES[name] for name in ("torch fp32", "ONNX int8")})
    monkeypatch.setattr(curve, "QUICK", {"rows": 2, "slices": 2, "turns": 1, "share": 2, "size": 64, "repeats": 1})
    curve.main([str(hub_folder), "--data", str(data), "--output_dir", str(tmp_path), "--quick"])
    record = json.loads((tmp_path / "curve.json").read_text("utf-8"))
    assert capsys.readouterr().out == tables(record)
    assert (tmp_path / "curve.md").exists() and (tmp_path / "curve.png").exists()
    assert [system["name"] for system in record["systems"]] == ["TSN, torch fp32", "VADER", "YAKE", "YAKE + VADER"]
    assert "TSN, ONNX int8 (no onnx/model_quantized.onnx)" in record["left_out"]
    counts = ["1", "2"][: len(available_cores())]
    for system in record["systems"]:
        turns = [len(system["speed"][count]["seconds"]) for count in counts]
        assert turns == [1, 2][-len(counts) :]
    with pytest.raises(SystemExit, match=r"has no config\.json: it is not a TSN checkpoint"):
        curve.main([str(tmp_path)])


def test_what_reads_a_part_of_a_slice_is_compared_by_its_rate():
    """A tenth of the words in half of the time: a fifth of the speed."""
    whole, part = {"words": [100], "seconds": [2.0]}, {"words": [10], "seconds": [1.0]}
    systems = [
        {"name": name, "precision": None, "speed": {"1": speed}}
        for name, speed in ((f"TSN, {REFERENCE}", whole), ("timed", part))
    ]
    add_figures({"systems": systems})
    assert part["times"]["median"] == pytest.approx(0.2) and whole["times"]["median"] == 1
