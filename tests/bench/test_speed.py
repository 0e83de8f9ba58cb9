"""The benchmark's texts, decoding, arithmetic and tables; what it times is not tested here."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import add_figures, speed, speed_ratio
from bench.machine import describe_machine
from bench.measures import best_way, take_turns
from bench.memory import disk_bytes, peak_bytes
from bench.report import markdown, plot_length, plot_throughput
from bench.speed import check_checkpoint
from bench.speed import main as bench_main
from bench.systems import TorchForward, Way, batches, count_tokens, pieces
from bench.texts import KINDS, count_words, documents, generate_texts, join_articles, read_texts, sample
from bench.three_pipelines import TASKS, ThreePipelines, save_models
from bench.usual_script import decode_spans, split_labels
from tagging_tsn import TagScheme, bioes_labels
from tests.conftest import ROOT, TEXTS, make_model
from tsn.hub.figures import number, summary
from tsn.machine import parse_cpuinfo
from tsn.tables import markdown_table

TYPES = ["PER", "LOC"]


def test_generated_texts_are_the_same_each_time_and_of_many_lengths():
    texts, again = generate_texts(), generate_texts()
    assert texts == again
    assert tuple(texts) == KINDS
    assert all(text.strip() for found in texts.values() for text in found)
    assert len({len(text.split()) for text in texts["sentences"]}) > 20
    assert count_words(texts["news"]) / len(texts["news"]) > 200


def test_texts_are_generated_where_the_folder_is_absent(tmp_path):
    texts, origin = read_texts(tmp_path / "absent")
    assert texts == generate_texts()
    assert "generator" in origin


def test_texts_of_the_data_folder(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {"source": ["tweeteval", "conll2003", "inspec", "tweeteval"], "text": ["a tweet", "EU", "other", " "]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "test.parquet")
    parquet.write_table(pyarrow.table({"text": ["news"]}), tmp_path / "news.parquet")
    texts, origin = read_texts(tmp_path)
    assert texts == {"tweets": ["a tweet"], "sentences": ["EU"], "news": ["news"]}
    assert "generator" not in origin
    parquet.write_table(pyarrow.table({"text": [""]}), tmp_path / "news.parquet")
    with pytest.raises(ValueError, match="no news"):
        read_texts(tmp_path)
    (tmp_path / "news.parquet").unlink()
    with pytest.raises(OSError, match=r"has no news\.parquet"):
        read_texts(tmp_path)


def test_sample_is_the_same_each_time():
    texts = [str(i) for i in range(100)]
    assert sample(texts, 10) == sample(texts, 10)
    assert len(set(sample(texts, 10))) == 10
    assert sorted(sample(texts, 1000)) == sorted(texts)


@given(st.integers(1, 40), st.integers(1, 10))
def test_documents_have_as_many_words_as_asked(words, number):
    text = "\n\n".join(f"w{i}  x{i}" for i in range(number * words))
    found = documents(text, words, number)
    assert [len(document.split()) for document in found] == [words] * number
    assert all(document in text for document in found)
    assert len(set(found)) == number


def test_joined_articles_begin_again_where_they_do_not_suffice():
    assert join_articles(["a b", "c"], 5) == "a b\n\nc\n\na b"
    assert join_articles(["a b", "c"], 2) == "a b"


@st.composite
def tagged_words(draw):
    """`(number of sub-words of each word, spans)`; spans are `(first, end, type)` in words and do not overlap."""
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    spans, first = [], 0
    while first < len(lengths):
        end = draw(st.integers(first + 1, len(lengths)))
        kind = draw(st.sampled_from([None, *TYPES]))
        spans += [(first, end, kind)] if kind else []
        first = end
    return lengths, spans


@given(tagged_words(), st.sampled_from(["BIOES", "IO"]), st.integers(0, 2**31))
def test_usual_decoding_agrees_with_the_pipelines_on_well_formed_tags(words, name, seed):
    lengths, spans = words
    labels = bioes_labels(TYPES) if name == "BIOES" else ["O", *TYPES]
    scheme = TagScheme(labels, name)
    tags = scheme.encode(spans, len(lengths))
    rng = np.random.default_rng(seed)
    pairs, word_ids, offsets, place = split_labels(labels, name), [None], [(0, 0)], 0
    token_tags, scores = [("O", None)], [1.0]
    for word, length in enumerate(lengths):
        for part in range(length):
            word_ids.append(word)
            offsets.append((place, place + 2))
            # Further sub-words carry any tag: none of them counts.
            token_tags.append(pairs[tags[word] if part == 0 else rng.integers(len(labels))])
            scores.append(0.5 if part == 0 else 0.1)
            place += 2
        place += 1
    word_ids += [None, None]
    offsets += [(0, 0), (0, 0)]
    token_tags += [pairs[-1]] * 2
    scores += [1.0] * 2
    starts = np.cumsum([0, *(2 * length + 1 for length in lengths)])
    _, first, end, kind = scheme.decode(tags[None])
    expected = [(scheme.types[k], 0.5, starts[a], starts[b] - 1) for a, b, k in zip(first, end, kind)]
    assert decode_spans(token_tags, scores, offsets, word_ids) == expected


def test_usual_decoding_of_tags_that_are_not_well_formed():
    pairs = [("I", "PER"), ("I", "LOC"), ("E", "LOC"), ("O", None), ("E", "PER")]
    offsets = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    found = decode_spans(pairs, [1.0] * 5, offsets, range(5))
    assert found == [("PER", 1.0, 0, 1), ("LOC", 1.0, 2, 5), ("PER", 1.0, 8, 9)]


def test_turns_are_taken_in_each_repeat():
    calls = []
    seconds = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], 3, "test")
    assert calls == ["a", "b"] * 3
    assert [len(found) for found in seconds] == [3, 3]
    assert all(second >= 0 for found in seconds for second in found)


def test_bare_model_runs_over_all_chunks_of_the_pipeline(pipe):
    texts = [" ".join(TEXTS), *TEXTS]
    expected = count_tokens(pipe, texts)
    for size in (1, 4):
        found = batches(pipe, texts, size)
        assert sum(int(inputs["attention_mask"].sum()) for inputs in found) == expected
        assert max(len(inputs["input_ids"]) for inputs in found) == size
    limit = TorchForward(pipe)
    way = best_way(limit, TEXTS)
    assert way in limit.ways
    seen = []
    hook = pipe.model.register_forward_hook(lambda module, given, output: seen.append(output.topic_logits))
    limit.prepare(texts, Way(2, False))()
    hook.remove()
    assert sum(len(logits) for logits in seen) == len(pieces(pipe, texts))
    assert not any(logits.requires_grad for logits in seen)


def test_pieces_hold_every_word(pipe):
    texts = [" ".join(TEXTS * 3), "one two"]
    found = pieces(pipe, texts)
    assert len(found) > 2
    assert " ".join(found).split() == " ".join(texts).split()


def test_three_pipelines_have_the_weights_of_one_model(tmp_path, tokenizer):
    model = make_model("bert", len(tokenizer))
    save_models(model, tokenizer, tmp_path)
    three = ThreePipelines(tmp_path)
    topics, entities, sentiment = three(TEXTS)
    assert len(topics) == len(entities) == len(sentiment) == len(TEXTS)
    assert {span["entity_group"] for spans in topics for span in spans} == {"TOPIC"}
    inputs = tokenizer(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).ner_logits
        found = three.pipes[list(TASKS).index("entities")].model(**inputs).logits
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.01)  # stored in fp16
    assert disk_bytes("three-pipelines", tmp_path) > 3 * 2 * sum(p.numel() for p in model.backbone.parameters())


def test_speed_and_ratio():
    row = {"texts": 10, "words": 100, "tokens": 200, "seconds": [1.0, 2.0, 4.0]}
    assert speed(row, "words") == {"median": 50, "min": 25, "max": 100}
    assert speed(row, "texts")["median"] == 5
    # Twice as slow in each repeat, though the machine itself was four times as slow in the last as in the first.
    slower = {**row, "seconds": [2.0, 4.0, 8.0]}
    assert speed_ratio(row, slower) == {"median": 2, "min": 2, "max": 2}
    assert speed_ratio({**row, "words": 50}, row)["median"] == 0.5


def example_record():
    """A run with speeds that make the ratios plain."""
    counts = {"texts": 10, "words": 1200, "tokens": 2000}
    slowness = {
        ("the limit", "torch"): 2,
        ("the limit", "onnx"): 2,
        ("the limit", "int8"): 1,
        ("TSN", "torch"): 4,
        ("TSN", "onnx"): 2.5,
        ("TSN", "int8"): 1.25,
        ("three pipelines", "torch"): 12,
        ("usual script", "int8"): 5,
    }
    rows = [
        {"system": system, "engine": engine, "mode": "batches", "kind": kind, **counts, "seconds": [s, 2 * s]}
        for kind in ("tweets", "news")
        for (system, engine), s in slowness.items()
    ]
    for row in rows:
        if row["system"] == "the limit":
            row.update(Way(16, False)._asdict())
    rows[2].update(Way(1, True)._asdict())
    rows.insert(0, {**rows[3], "mode": "one by one", "seconds": [100, 100]})
    return {
        "date": "2030-01-01",
        "machine": {
            "cpu": "A CPU",
            "cores": 2,
            "features": {"avx2": True, "avx512_vnni": False},
            "os": "An OS",
            "load": 0.1,
        },
        "versions": {"torch": "1"},
        "threads": 2,
        "texts": "made",
        "repeats": 2,
        "throughput": rows,
        "length": [
            {"engine": "int8", "length": length, "documents": 1, "words": length, "tokens": length, "seconds": seconds}
            for length, seconds in ((1000, [0.1, 0.2]), (100_000, [15.0, 30.0]))
        ],
        "int8": [{"batch": 1, "tokens": 64, "runs": 10, "seconds": {"onnx": [3.0, 4.0], "int8": [2.0, 2.0]}}],
        "memory": [{"system": "TSN", "engine": "int8", "peak_bytes": 5e8, "disk_bytes": 23e6}],
    }


def test_summary_compares_what_it_says():
    record = example_record()
    add_figures(record)
    ratios = {row["name"]: row["ratios"]["news"]["median"] for row in record["summary"]}
    assert ratios == pytest.approx(
        {
            "TSN, fp32 torch / the limit": 0.5,
            "TSN, fp32 ONNX / the limit": 0.8,
            "TSN, int8 ONNX / the limit": 0.8,
            "TSN, fp32 torch / three pipelines": 3,
            "TSN, int8 ONNX / three pipelines": 9.6,
            "TSN, int8 ONNX / usual script": 4,
        }
    )
    assert record["length"][1]["cost_ratio"]["median"] == pytest.approx(1.5)
    assert record["length"][0]["microseconds_per_word"] == pytest.approx({"median": 150, "min": 100, "max": 200})
    assert record["int8"][0]["ratio"] == {"median": 1.75, "min": 1.5, "max": 2}
    json.dumps(record)


def test_report(tmp_path):
    record = example_record()
    add_figures(record)
    text = markdown(record)
    assert "A CPU, avx2, no avx512_vnni; 2 cores, 2 threads" in text
    assert "| the limit, int8 ONNX (1 on each thread) " in text and "| the limit, fp32 torch (16) " in text
    assert "0.80 (0.80-0.80)" in text
    assert "cost of a word, 100,000 / 1,000 words, int8 ONNX" in text
    assert "350.0" in text  # milliseconds of an fp32 run
    assert summary(record).startswith("|") and "A CPU" in summary(record)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    assert all(len({len(line) for line in block}) == 1 for block in blocks)
    for plot, name in ((plot_throughput, "a.png"), (plot_length, "b.png")):
        plot(record, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_table_and_numbers():
    assert markdown_table([["", "b"], ["long", "1"]]) == "|      | b |\n| ---- | : |\n| long | 1 |\n"
    assert [number(value) for value in (1.25, 99.9, 100.4, 12345.6)] == ["1.2", "99.9", "100", "12,346"]


def test_machine():
    text = "model name\t: A CPU\nflags\t\t: avx2 sse\n\nmodel name\t: Another\n"
    assert parse_cpuinfo(text) == {"model name": "A CPU", "flags": "avx2 sse"}
    found = describe_machine()
    assert found["cpu"] and found["cores"] >= 1
    assert set(found) == {"cpu", "cores", "features", "os", "load"}


def test_peak_memory_is_not_the_parents():
    command = [sys.executable, "-c", "from bench.memory import peak_bytes; print(peak_bytes())"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert 1e6 < int(found.stdout) < peak_bytes() / 2  # this process has torch in memory


def test_what_is_not_a_checkpoint_is_named(tmp_path, hub_folder, capsys):
    with pytest.raises(OSError, match="there is no folder"):
        check_checkpoint(tmp_path / "absent")
    with pytest.raises(OSError, match="no config.json"):
        check_checkpoint(tmp_path)
    with pytest.raises(SystemExit, match=r"run python quantize\.py .* --output_dir OUT first"):
        bench_main([str(hub_folder)])
    with pytest.raises(SystemExit):
        bench_main([str(hub_folder), "--repeats", "0"])
    assert "--repeats must be at least 1" in capsys.readouterr().err
