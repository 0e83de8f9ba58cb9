"""Files of rows and what damages them: cut off, overwritten, doubled, or bytes put in between."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

SUFFIXES = (".csv", ".jsonl", ".json", ".parquet", ".txt")
_text = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["Ana Torres of Lima.", "", " ", "\0", 'say "no", twice', "a\r\nb", "東京タワー。", "x" * 200]
)
_number = st.integers(-(2**70), 2**70) | st.floats()
_value = st.recursive(
    st.none() | st.booleans() | _number | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_span = st.fixed_dictionaries(
    {}, optional={"start": st.integers(-1, 30), "end": st.integers(-1, 30), "label": st.sampled_from(["PER", "X", 3])}
)
_literals = st.sampled_from(
    [
        "",
        "['Lima']",
        "[('Ana', 'PER')]",
        "[" * 200,
        "1",
        "{}",
        "[('Lima',)]",
        "['']",
        "9" * 5000,
        "-" * 900 + "1",
        "(1",
    ]
)
_row = st.fixed_dictionaries(
    {"text": st.one_of(_text, _text, _value)},
    optional={
        "id": _value,
        "topics": st.lists(_span, max_size=3) | _value,
        "entities": st.lists(_span, max_size=3) | _value,
        "sentiment": st.sampled_from(["positive", "bad", 0, 2, -1, True]) | _value,
        "error": _value,
    },
)
_cells = st.lists(_text | _literals, max_size=5)
_header = st.sampled_from(
    [["text"], ["id", "text", "topics", "ner", "sentiment"], ["text", "text"], ["a"], ["\ufefftext"]]
)


def _bytes(text):
    return text.encode("utf-8", "surrogatepass")


def _as_csv(header, rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *rows])
    return _bytes(out.getvalue())


def _as_lines(rows):
    return b"".join(_bytes(json.dumps(row, ensure_ascii=False)) + b"\n" for row in rows)


def _as_array(rows, indent):
    return _bytes(json.dumps(rows, ensure_ascii=False, indent=indent))


def _as_parquet(rows):
    texts = [row["text"] if isinstance(row["text"], str) else None for row in rows]
    columns = {"text": pa.array([text and text.encode("utf-8", "replace").decode() for text in texts], pa.string())}
    columns["n"] = pa.array(range(len(rows)))
    columns["topics"] = pa.array(
        [[{"start": 0, "end": 1}]] * len(rows), pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64())]))
    )
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), out)
    return out.getvalue().to_pybytes()


_contents = {
    ".csv": st.builds(_as_csv, _header, st.lists(_cells, max_size=5)),
    ".jsonl": st.builds(_as_lines, st.lists(_row | _value, max_size=5)),
    ".json": st.builds(_as_array, st.lists(_row | _value, max_size=5), st.sampled_from([None, 0, 2])),
    ".parquet": st.builds(_as_parquet, st.lists(_row, max_size=5)),
    ".txt": st.lists(_text, max_size=5).map("\n".join).map(_bytes),
}
_place = st.integers(0, 2**16 - 1)
_damage = st.lists(
    st.tuples(st.sampled_from(["cut", "set", "insert", "double"]), _place, st.binary(min_size=1, max_size=8)),
    max_size=3,
)


def damaged(content, changes):
    for kind, place, given in changes:
        place %= len(content) + 1
        if kind == "cut":
            content = content[:place]
        elif kind == "set":
            content = content[:place] + given + content[place + len(given) :]
        elif kind == "insert":
            content = content[:place] + given + content[place:]
        else:
            content = content[:place] + content
    return content


@st.composite
def files(draw, suffixes=SUFFIXES):
    """`(suffix, bytes)` of a file of the format that its name says, sound, damaged or something else altogether."""
    suffix = draw(st.sampled_from(suffixes))
    content = draw(_contents[suffix] | st.binary(max_size=60))
    return suffix, damaged(content, draw(_damage))
