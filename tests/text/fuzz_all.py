"""Ids, offsets and decoded text of Weft against the library that each vocabulary comes from.

Usage: fuzz_all.py TEXT_TOOL [--lines N] [--seed S] [--code-points] [--only NAME ...] [--part I/N] [--offsets N] [--json FILE]
       fuzz_all.py --table FILE...
  --lines N        fuzzed lines for every vocabulary (2000)
  --code-points    also every Unicode code point, alone and between letters
  --seed S         of the lines (2): several runs with other seeds are one long one
  --only NAME      these vocabularies: a whole name, or what stands before its slash
  --part I/N       every Nth group of vocabularies, from the Ith (0-based): for running several at once
  --offsets N      lines whose offsets and decoded text are compared too (2000)
  --json FILE      append a row a vocabulary, as they finish
  --table          print such rows as a Markdown table, runs of one vocabulary added up
Exit codes: 0 all equal, 1 not, 77 nothing to compare with. The whole: --lines 1000000 --code-points.
"""
import argparse, array, itertools, json, os, random, subprocess, sys, tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    import tokenizers
except ImportError as error:
    print("skipped: tokenizers:", error)
    sys.exit(77)
import vocabularies
from lines import every_code_point, fuzz_line, fuzz_lines

CHUNK = 200000  # lines at once: the tool loads a vocabulary for each


def as_json(lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


def tool(arguments, text):
    run = subprocess.run([options.tool] + arguments, input=text.encode(), capture_output=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.decode(errors="replace").strip()[:300])
    return run.stdout


def packed(ids):  # the form of `encode --raw`
    flat = itertools.chain.from_iterable(itertools.chain((len(x),), x) for x in ids)
    return array.array("i", flat).tobytes()


def unpacked(raw):
    numbers, out, at = array.array("i", raw), [], 0
    while at < len(numbers):
        out.append(numbers[at + 1:at + 1 + numbers[at]].tolist())
        at += 1 + numbers[at]
    return out


def differing(v, lines, text):
    """Prints the first lines whose ids differ; returns how many do."""
    got, want = tool(["encode", v.path, "--raw"] + v.flags, text), v.reference(lines)
    if got == packed(want):
        return 0
    bad = [(line, a, b) for line, a, b in zip(lines, unpacked(got), want) if a != list(b)]
    for line, a, b in bad[:2]:
        k = next(k for k in range(len(a) + 1) if a[k:k + 1] != list(b)[k:k + 1])
        print("   ", ascii(line[:100]), "at", k, "got", a[k:k + 4], "want", list(b)[k:k + 4], flush=True)
    return len(bad)


def chunks_of_lines():
    rng = random.Random(options.seed)
    for begin in range(0, options.lines, CHUNK):
        yield [fuzz_line(rng) for _ in range(min(CHUNK, options.lines - begin))]


def chunks_of_code_points():
    lines = every_code_point()
    for begin in range(0, len(lines), CHUNK):
        yield lines[begin:begin + CHUNK]


def compare_offsets(v, lines):
    bad = 0
    for line, (ids, ranges), want in zip(lines, map(json.loads, tool(["encode", v.path, "--offsets"] + v.flags, as_json(lines)).splitlines()),
                                         v.hf.encode_batch(lines, add_special_tokens="--add" in v.flags)):
        character = {0: 0}  # byte offset -> character offset
        for k, c in enumerate(line):
            character[max(character) + len(c.encode())] = k + 1
        ours = [(character.get(a, -1), character.get(b, -1)) for a, b in ranges]
        if ours != want.offsets:
            bad += 1
            if bad <= 2:
                k = next(k for k in range(len(ours)) if ours[k] != want.offsets[k])
                print("    offsets", ascii(line[:60]), ascii(want.tokens[k]), "got", ours[k], "want", want.offsets[k], flush=True)
    return bad


def compare_decoding(v, lines):
    """The tool also decodes id by id and fails where that differs."""
    ids = v.reference(lines)
    got = [json.loads(line) for line in tool(["decode", v.path], as_json([list(map(int, x)) for x in ids])).splitlines()]
    if v.exact:
        want = lines
    elif v.hf is not None:
        want = v.hf.decode_batch(ids, skip_special_tokens=False)
    else:
        want = [v.decode(list(x)) for x in ids]
    bad = [(a, b) for a, b in zip(got, want) if a != b]
    for a, b in bad[:2]:
        print("    decoded", ascii(a[:100]), "want", ascii(b[:100]), flush=True)
    return len(bad)


def compare(v, some):
    row = dict(lines=0, ids=0, code_points=0, code_point_ids=0, offsets=None, decoded=None, shipped=None)
    if v.known is not None:
        texts = [t for t, _ in v.known]
        row["shipped"] = f"{sum(a == b for a, (_, b) in zip(unpacked(tool(['encode', v.path, '--raw'], as_json(texts))), v.known))} of {len(texts)}"
    for lines in chunks_of_lines():
        row["lines"] += len(lines)
        row["ids"] += differing(v, lines, as_json(lines))
    if options.code_points:
        for lines in chunks_of_code_points():
            row["code_points"] += len(lines)
            row["code_point_ids"] += differing(v, lines, as_json(lines))
    if v.hf is not None:
        v.reference(["x"])  # sets what special tokens are to it
        row["offsets"] = compare_offsets(v, some)
    if v.hf is not None or v.decode is not None or v.exact:
        row["decoded"] = compare_decoding(v, some)
    return row


def wanted(name):
    return not options.only or name in options.only or name.split("/")[0] in options.only


def relevant(group, name):  # of a maker: without a name, it may make any of its group
    def one(only):
        return only.split(" ")[0] in (group, name) if name else not group or only.split("/")[0] == group
    return not options.only or any(one(o) for o in options.only)


def main():
    failed, rows = 0, 0
    folder = tempfile.mkdtemp()
    some = fuzz_lines(5, options.offsets)
    index, parts = (int(x) for x in options.part.split("/"))
    for number, (group, name, make) in enumerate(vocabularies.all_vocabularies(folder, options.tool, fuzz_lines(2, 400))):
        if number % parts != index or not relevant(group, name):
            continue
        for v in make():
            if not wanted(v.name):
                continue
            rows += 1
            try:
                r = compare(v, some)
            except RuntimeError as error:
                print(v.name, "FAILED", error, flush=True)
                failed += 1
                continue
            shipped = r["shipped"] is not None and len(set(r["shipped"].split(" of "))) != 1
            failed += r["ids"] + r["code_point_ids"] + (r["offsets"] or 0) + (r["decoded"] or 0) + shipped > 0
            print(v.name, r, flush=True)
            if options.json:
                with open(options.json, "a") as f:
                    f.write(json.dumps({"vocabulary": v.name, **r}) + "\n")
    for reason in vocabularies.absent:
        print("skipped:", reason)
    print(rows, "vocabularies,", failed, "with differences")
    return 77 if rows == 0 else 1 if failed else 0


def table(files):
    sums = {}
    for file in files:
        for line in open(file):
            row = json.loads(line)
            known = sums.setdefault(row["vocabulary"], dict.fromkeys(row, None))
            for key, value in row.items():
                known[key] = value if not isinstance(value, int) or known[key] is None else known[key] + value
    shown = lambda x: "-" if x is None else x
    print("| vocabulary | fuzzed lines | mismatches | code points, twice | mismatches | offsets and decoded texts that differ | shipped ids equal |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, r in sums.items():
        print(f"| {name} | {r['lines']:,} | {r['ids']} | {r['code_points']:,} | {r['code_point_ids']} | {shown(r['offsets'])}, {shown(r['decoded'])} | {shown(r['shipped'])} |")
    return 0


if sys.argv[1:2] == ["--table"]:
    sys.exit(table(sys.argv[2:]))
parser = argparse.ArgumentParser(usage=__doc__)
parser.add_argument("tool")
parser.add_argument("--lines", type=int, default=2000)
parser.add_argument("--seed", type=int, default=2)
parser.add_argument("--code-points", action="store_true")
parser.add_argument("--only", nargs="*", default=[])
parser.add_argument("--part", default="0/1")
parser.add_argument("--offsets", type=int, default=2000)
parser.add_argument("--json")
options = parser.parse_args()
sys.exit(main())
