"""`graph_tsn.py`: batches of rows of about one length, work on threads, and what both engines refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graph_tsn import GraphFile, batches_by_length, unite
from modeling_tsn import TSNModel


@given(
    lengths=st.lists(st.integers(1, 60), max_size=50).map(np.array),
    most_rows=st.integers(1, 20),
    most_tokens=st.none() | st.integers(1, 200),
    shortest=st.sampled_from([0, 0.5, 0.75, 1]),
)
def test_batches_hold_every_row_once_and_keep_the_limits(lengths, most_rows, most_tokens, shortest):
    batches = [lengths[batch].tolist() for batch in batches_by_length(lengths, most_rows, most_tokens, shortest)]
    assert sum(batches, []) == sorted(lengths.tolist(), reverse=True)
    for batch, following in zip(batches, [*batches[1:], None]):
        longest, tokens = batch[0], len(batch) * batch[0]
        assert len(batch) <= most_rows and batch[-1] >= shortest * longest
        assert most_tokens is None or tokens <= most_tokens or len(batch) == 1
        if following:  # one row more would have broken a limit
            full = len(batch) == most_rows or following[0] < shortest * longest
            assert full or (most_tokens is not None and tokens + longest > most_tokens)


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=20).map(np.array), step=st.integers(1, 8))
def test_outputs_are_united_in_the_order_of_the_rows(lengths, step):
    shape = (len(lengths), int(lengths.max()))
    tokens = np.arange(shape[0] * shape[1] * 2, dtype=np.float32).reshape(*shape, 2)  # (rows, tokens, labels)
    texts = np.arange(len(lengths) * 3, dtype=np.float32).reshape(-1, 3)  # (rows, classes)
    wider = np.pad(tokens, ((0, 0), (0, step), (0, 0)))  # what an engine gives that pads to multiples of a step
    batches = list(batches_by_length(lengths, 4))
    outputs = [[wider[batch, : -(-lengths[batch[0]] // step) * step], texts[batch]] for batch in batches]
    united_tokens, united_texts = unite(batches, outputs, shape)
    assert (united_texts == texts).all() and united_tokens.shape == tokens.shape
    for found, expected, length in zip(united_tokens, tokens, lengths):
        assert (found[:length] == expected[:length]).all()


@pytest.mark.parametrize(("engine", "file"), [("onnx", "model.onnx"), ("openvino", "model.xml")])
def test_an_empty_batch_is_an_error(request, engine, file):
    model = TSNModel.from_pretrained(request.getfixturevalue(f"{engine}_folder"), **{f"{engine}_file": file})
    for shape in ((0, 3), (2, 0)):
        with pytest.raises(ValueError, match="hold no token"):
            model(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_errors_are_raised(threads):
    file = GraphFile(b"")
    for count in (0, 1, 3, 40):
        assert file.in_threads(lambda x: x * x, range(count), threads) == [x * x for x in range(count)]
    with pytest.raises(ZeroDivisionError):
        file.in_threads(lambda x: 1 // x, [2, 0, 1], threads)
