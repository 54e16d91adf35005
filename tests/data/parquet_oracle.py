"""Parquet files that pyarrow writes, read by Weft: every row equal, for text, lists of structs, numbers and nulls, in every
compression, encoding, page version and page size that is read; what is not read is refused by name.

Usage: parquet_oracle.py DATA_TOOL [ROWS]. Exit 0 when everything is equal, 77 when pyarrow is not installed.
"""
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile

try:
    import pyarrow
    import pyarrow.parquet
except (ImportError, OSError) as error:
    print("skipped:", error)
    sys.exit(77)


def text(rng):
    n = rng.choice([0, 1, 5, 40, 400])
    return "".join(rng.choice(["a", " ", "word ", "\n", "\"", "\\", "\t", "\x01", "\u00e9", "\u6f22", "\U0001f600", "\x00"]) for _ in range(n))


def make_rows(rng, count):
    rows = []
    for i in range(count):
        messages = None if rng.random() < 0.05 else [
            {"role": rng.choice(["user", "assistant"]), "content": None if rng.random() < 0.1 else text(rng), "weight": rng.choice([None, 0.0, 1.0, 0.5])}
            for _ in range(rng.choice([0, 1, 2, 7]))]
        rows.append({
            "text": None if rng.random() < 0.1 else text(rng),
            "kind": rng.choice(["web", "book", "code", None]),
            "messages": messages,
            "id": rng.randrange(-2**62, 2**62), "small": rng.randrange(-1000, 1000), "good": rng.random() < 0.5, "score": rng.choice([1.5, -2.25, 1e300]),
            "tags": None if rng.random() < 0.1 else [rng.choice(["x", "yy", None]) for _ in range(rng.choice([0, 1, 3]))],
            "deep": [[rng.randrange(9) for _ in range(rng.choice([0, 1, 2]))] for _ in range(rng.choice([0, 2]))],
            "meta": None if rng.random() < 0.2 else {"lang": rng.choice(["en", None]), "pages": [1, 2] if rng.random() < 0.5 else []},
        })
    return rows


SCHEMA = pyarrow.schema([
    ("text", pyarrow.string()), ("kind", pyarrow.large_string()),
    ("messages", pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string()), ("weight", pyarrow.float64())]))),
    ("id", pyarrow.int64()), ("small", pyarrow.int32()), ("good", pyarrow.bool_()), ("score", pyarrow.float64()),
    ("tags", pyarrow.list_(pyarrow.string())), ("deep", pyarrow.list_(pyarrow.list_(pyarrow.int32()))),
    ("meta", pyarrow.struct([("lang", pyarrow.string()), ("pages", pyarrow.list_(pyarrow.int64()))])),
])


def main():
    tool, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 400
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as folder:
        def read(path, columns, first):
            run = subprocess.run([tool, "parquet", path, str(first), *columns], capture_output=True)
            return run.returncode, run.stdout, run.stderr.decode()

        options = []
        for compression, version, dictionary, page in itertools.product(["none", "snappy", "gzip", "zstd"], ["1.0", "2.0"], [True, False], [300, 1 << 20]):
            options.append(dict(compression=compression, data_page_version=version, use_dictionary=dictionary, data_page_size=page))
        for encoding in ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]:
            options.append(dict(compression="zstd", use_dictionary=False, column_encoding={"text": encoding, "kind": encoding, "id": "DELTA_BINARY_PACKED", "small": "DELTA_BINARY_PACKED"}))
        options.append(dict(compression="snappy", write_page_checksum=True))
        options.append(dict(compression="zstd", version="1.0", use_compliant_nested_type=False))
        files = rows_equal = 0
        for i, o in enumerate(options):
            rows = make_rows(rng, count)
            path = os.path.join(folder, f"f{i}.parquet")
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), path, row_group_size=rng.choice([7, 100, count]), **o)
            for columns, first in [(SCHEMA.names, 0), (["text"], rng.randrange(count)), (["messages"], rng.randrange(count))]:
                code, out, error = read(path, columns, first)
                assert code == 0, (o, error)
                got = [json.loads(line) for line in out.decode().splitlines()]
                want = [{c: r[c] for c in SCHEMA.names if c in columns} for r in rows[first:]]
                assert len(got) == len(want), (o, len(got), len(want))
                for g, w in zip(got, want):
                    assert g == w, (o, g, w)
                rows_equal += len(got)
            files += 1
        refused = 0
        table = pyarrow.table({"text": ["a", "b"]})
        for o, says in [(dict(compression="brotli"), "Brotli"), (dict(compression="lz4"), "LZ4")]:
            pyarrow.parquet.write_table(table, path, **o)
            code, _, error = read(path, ["text"], 0)
            assert code != 0 and says in error, (o, code, error)
            refused += 1
        pyarrow.parquet.write_table(table, path)
        code, _, error = read(path, ["body"], 0)
        assert code != 0 and '"body"' in error and '"text"' in error, error
        good = open(path, "rb").read()
        pyarrow.parquet.write_table(pyarrow.table({"text": [text(rng) for _ in range(20)]}), path, compression="snappy", write_page_checksum=True)
        good = open(path, "rb").read()
        want = read(path, ["text"], 0)[1]
        flips = seen = changed = 0
        for bit in range(0, 8 * len(good), max(1, 8 * len(good) // 500)):  # none may crash or hang
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            open(path, "wb").write(bad)
            code, out, error = read(path, ["text"], 0)
            assert code in (0, 1), (bit, code, error[-300:])
            flips, seen, changed = flips + 1, seen + (code == 1), changed + (code == 0 and out != want)
        print(f"files read equal to pyarrow {pyarrow.__version__}: {files} ({rows_equal} rows); refused by name: {refused + 1}; single bits flipped: {flips}, {seen} refused, {flips - seen - changed} without effect, {changed} that change a row")


main()
