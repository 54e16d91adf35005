"""Reads .bin/.idx files that Weft wrote, with nothing but numpy and the description of the format, and compares the ids.

Where megatron-core is installed the files must also equal those of its builder, byte for byte.
Usage: idx_reader.py DATA_TOOL. Exit 0 when everything is equal, 77 when numpy is not installed.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

try:
    import numpy
except (ImportError, OSError) as error:  # OSError: a torch that lacks its libraries
    print("skipped:", error)
    sys.exit(77)

TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def read_idx(prefix):
    """The sequences and the document boundaries of a file pair."""
    raw = open(prefix + ".idx", "rb").read()
    assert raw[:9] == b"MMIDIDX\x00\x00", raw[:9]
    assert int.from_bytes(raw[9:17], "little") == 1
    dtype = numpy.dtype(TYPES[raw[17]])
    n, d = int.from_bytes(raw[18:26], "little"), int.from_bytes(raw[26:34], "little")
    assert len(raw) == 34 + 12 * n + 8 * d, (len(raw), n, d)
    lengths = numpy.frombuffer(raw, "<i4", n, 34)
    pointers = numpy.frombuffer(raw, "<i8", n, 34 + 4 * n)
    boundaries = numpy.frombuffer(raw, "<i8", d, 34 + 12 * n)
    tokens = open(prefix + ".bin", "rb").read()
    assert len(tokens) == int(lengths.sum()) * dtype.itemsize
    assert boundaries[0] == 0 and boundaries[-1] == n
    return [numpy.frombuffer(tokens, dtype, lengths[i], pointers[i]).tolist() for i in range(n)], boundaries.tolist()


def main():
    tool, rng = sys.argv[1], random.Random(3)
    try:
        from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    except (ImportError, OSError):
        IndexedDatasetBuilder = None
    with tempfile.TemporaryDirectory() as folder:
        sets = []
        for code in TYPES:
            top = {1: 256, 2: 128, 3: 32768, 4: 2**31, 5: 2**31, 8: 65536}[code]
            for size in (0, 1, 500):
                documents = [[[rng.randrange(top) for _ in range(rng.randint(1, 60))] for _ in range(rng.choice([1, 1, 1, 0, 3]))] for _ in range(size)]
                sets.append({"prefix": f"{folder}/t{code}n{size}", "type": code, "documents": documents, "merge": []})
            sets.append({"prefix": f"{folder}/t{code}merged", "type": code, "documents": [[[1, 2], [3]]], "merge": [f"{folder}/t{code}n{n}" for n in (500, 0, 1)]})
        with open(folder + "/sets.json", "w") as f:
            json.dump(sets, f)
        subprocess.run([tool, "write", folder + "/sets.json"], check=True)
        by_prefix = {s["prefix"]: s["documents"] for s in sets}
        equal = 0
        for s in sets:
            documents = s["documents"] + [d for p in s["merge"] for d in by_prefix[p]]
            sequences, boundaries = read_idx(s["prefix"])
            assert sequences == [q for d in documents for q in d], s["prefix"]
            assert boundaries == numpy.cumsum([0] + [len(d) for d in documents]).tolist(), s["prefix"]
            if IndexedDatasetBuilder is None:
                continue
            theirs = s["prefix"] + ".megatron"
            builder = IndexedDatasetBuilder(theirs + ".bin", dtype=DType.dtype_from_code(s["type"]))
            for d in s["documents"]:
                builder.add_document([t for q in d for t in q], [len(q) for q in d])
            for p in s["merge"]:
                builder.add_index(p + ".megatron")
            builder.finalize(theirs + ".idx")
            for end in (".bin", ".idx"):
                assert open(theirs + end, "rb").read() == open(s["prefix"] + end, "rb").read(), (s["prefix"], end)
            equal += 1
        print(f"sets read back with equal ids: {len(sets)}; byte for byte as megatron-core writes them: {equal}")


main()
