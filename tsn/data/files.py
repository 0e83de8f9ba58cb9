"""What a file holds: its format, by name or by content, and its bytes, unpacked and in UTF-8."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import shutil
import sys
import tempfile
from itertools import chain
from pathlib import Path

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
READABLE = f"use {', '.join(FORMATS)} (also packed as .gz, .bz2, .xz or .zst) or a folder of .parquet files"
_PACKED = {".gz", ".bz2", ".xz", ".zst"}
_OTHERS = {".xlsx", ".xls", ".ods", ".zip", ".tar", ".tgz", ".7z", ".rar", ".pkl", ".pickle", ".arrow", ".feather"}
HEAD = 1 << 16  # bytes that a format is recognized by
_PIECE = 1 << 16
_REFUSED = {
    b"PK\x03\x04": "a zip archive or an Office file such as .xlsx",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Office file such as .xls",
    b"%PDF-": "a PDF",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF\r\n": "an HDF5 file",
    b"ARROW1\0\0": "an Arrow (Feather) file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x93NUMPY": "a NumPy array",
    b"Obj\x01": "an Avro file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"version https://git-lfs.github.com/spec": "a Git LFS pointer (`git lfs pull` fetches the file itself)",
    **{b"\x80" + bytes([protocol]): "a pickle" for protocol in (2, 3, 4, 5)},
}
_BOMS = {  # UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def suffix_of(path):
    """The suffix that names the format: `.csv` of `a.csv.gz`, and none of standard input."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() in _PACKED else path.name).suffix.lower()


def is_hub_id(path):
    """Whether this is a Hub data set's id rather than a file's path."""
    suffix = Path(path).suffix.lower()
    known = suffix in FORMATS or suffix in _PACKED or suffix in _OTHERS or str(path) == "-"
    return not known and not Path(path).exists() and bool(re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(path)))


def reads_once(path):
    """Whether this is standard input or a pipe, which is gone once it has been read."""
    return str(path) == "-" or (Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir())


def open_file(path, column):
    """`(format, file)`: which of `FORMATS` a file has, and its bytes: unpacked, and UTF-8 without a byte order mark.

    Args:
        path: Of a file or pipe, or `-` for standard input. Its name tells the format; without a suffix, what it holds.
        column: Holds the texts; a file without a suffix is CSV if its first line names it.

    Raises:
        ValueError: it has another format, which the message names.
    """
    stdin = str(path) == "-"
    file = io.BufferedReader(_Chunks(_pieces(sys.stdin.buffer))) if stdin else open(path, "rb")  # noqa: SIM115
    head, file = _peeked(file)
    if unpack := _unpacker(head):
        head, file = _peeked(unpack(file), file)
    suffix = suffix_of(path)
    kind = FORMATS.get(suffix)
    what = next((what for magic, what in _REFUSED.items() if head.startswith(magic)), None)
    if what or head[257:262] == b"ustar":
        raise ValueError(f"{path} is {what or 'a tar archive'}, which cannot be read: {READABLE}")
    # 0x15 begins whatever a Parquet file holds first: the four letters alone may begin a text.
    if kind == "parquet" or head.startswith(b"PAR1\x15"):
        return "parquet", _seekable(path, file, packed=unpack)
    if kind is None and suffix:
        raise ValueError(f"{path}: the format is not known; {READABLE}")
    head, file = _peeked(_as_utf8(head, file))
    return kind or _sniffed(path, head.decode("utf-8", "replace"), column), file


class _Chunks(io.RawIOBase):
    """A file of the bytes that an iterator yields; closes the files that these come from."""

    def __init__(self, chunks, *sources):
        self._chunks, self._left, self._sources = chunks, b"", sources

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = chunk
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self):
        for source in self._sources:
            source.close()
        super().close()


def _pieces(file):
    return iter(lambda: file.read(_PIECE), b"")


def _peeked(file, *sources):
    """`(head, file)`: the first bytes of a file, and a file that begins with them again."""
    head = file.read(HEAD)
    return head, io.BufferedReader(_Chunks(chain([head], _pieces(file)), file, *sources), _PIECE)


def _seekable(path, file, packed):
    """The file, as one in which Parquet's reader can go back and forth."""
    if not packed and Path(path).is_file():
        file.close()
        return open(path, "rb")
    spooled = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    with file:
        shutil.copyfileobj(file, spooled, 1 << 20)
    spooled.seek(0)
    return spooled


def _unpacker(head):
    if head.startswith(b"\x1f\x8b\x08"):
        return lambda file: gzip.GzipFile(fileobj=file)
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
        return bz2.BZ2File
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile
    return _zstandard if head.startswith(b"\x28\xb5\x2f\xfd") else None


def _zstandard(file):
    import pyarrow

    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    return io.BufferedReader(_Chunks(_pieces(stream)))


def _as_utf8(head, file):
    encoding = next((name for mark, name in _BOMS.items() if head.startswith(mark)), None) or _without_mark(head)
    if encoding is None:
        return file
    if encoding == "utf-8-sig":
        file.read(len(codecs.BOM_UTF8))
        return file
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")  # half a pair is a fault of its row alone
    texts = (decoder.decode(piece, not piece) for piece in chain(_pieces(file), [b""]))
    return io.BufferedReader(_Chunks((text.encode("utf-8", "surrogatepass") for text in texts), file), _PIECE)


def _without_mark(head):
    """UTF-16 without a byte order mark has a zero in nearly every pair of bytes, always on the same side."""
    pairs = head[: len(head) // 2 * 2]
    for encoding, zeros, others in (("utf-16-le", pairs[1::2], pairs[::2]), ("utf-16-be", pairs[::2], pairs[1::2])):
        if len(zeros) >= 8 and zeros.count(0) > 0.9 * len(zeros) and not others.count(0):
            return encoding
    return None


def _sniffed(path, head, column):
    """The format of a text that has no name."""
    if re.match(r'\s*(\{\s*["}]|\[\s*[\[{\]])', head):
        return "json"
    names = csv_header(head, csv_delimiter(head, column))
    if column in names:
        return "csv"
    lines = head.split("\n")[:-1][:20]
    if len(names) > 1 and len(lines) > 1 and all(re.fullmatch(r"[^\W\d][\w.-]*( [\w.-]+)?", name) for name in names):
        delimiter = csv_delimiter(head, column)
        if {len(csv_header(line, delimiter)) for line in lines} == {len(names)}:
            raise ValueError(
                f"{path} looks like CSV whose columns are {', '.join(map(repr, names))}, without {column!r}; "
                f"if it is plain text, save it as .txt"
            )
    return "text"


def csv_delimiter(head, column, first=","):
    """The delimiter of CSV: the one with which the header names the column, else the one that gives most columns."""

    def names_it(delimiter):
        names = csv_header(head, delimiter)
        return column in names, len(names) if len(names) > 1 else 0

    return max(dict.fromkeys([first, *",;\t|"]), key=names_it)


def csv_header(head, delimiter):
    """The first row of CSV, empty if it is none."""
    try:
        return next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def is_json_document(head, kind):
    """Whether JSON is an array or goes over several lines, rather than one value a line.

    Args:
        head: Its beginning.
        kind: `"json"` or `"jsonl"`: there, a list in the first line may be a bad row.
    """
    if re.match(r"\s*\[" if kind == "json" else r"\s*\[\s*(\{|\]?\s*\Z)", head):
        return True
    if re.match(r"\s*\{\s*\n", head) or kind == "json" and re.search(r"^\{\s*$", head, re.MULTILINE):
        return True
    first = head.lstrip().partition("\n")[0].strip()
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        try:
            return isinstance(json.JSONDecoder().raw_decode(head.lstrip())[0], dict)
        except (ValueError, RecursionError):
            return False
    return False
