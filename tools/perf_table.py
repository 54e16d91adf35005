#!/usr/bin/env python3
"""Prints the figures of `weft bench ops --perf --json FILE` as a Markdown table, the form that docs/measured.md holds:
perf_table.py FILE [--only GLOB]... [--all]

--only   rows whose OP/ROW matches; repeated: any of them
--all    also rows that only launches bound, which are left out otherwise"""
import argparse, fnmatch, json


def part(row, name):
    """'0.579 | 49 | 1.02' of one direction, or blanks."""
    if f"{name}_ms" not in row:
        return " | | "
    roof, ratio = row.get(f"{name}_roofline_percent"), row.get(f"{name}_peer_over_ours")
    return f"{row[f'{name}_ms']:.3g} | {'' if roof is None else f'{roof:.0f}'} | {'' if ratio is None else f'{ratio:.2f}'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    rows = json.load(open(options.file, encoding="utf-8"))
    roof = next(r for r in rows if r["op"] == "roofline")
    rates = ", ".join(f"{k.removeprefix('gemm_').removesuffix('_tflop_per_s')} {v:.0f} TFLOP/s" for k, v in roof.items() if k.startswith("gemm_"))
    print(f"Copy {roof['copy_gb_per_s'] / 1000:.2f} TB/s; products: {rates}.\n")
    print("| op | row | dtype, candidate | fwd ms | % | peer / ours | bwd ms | % | peer / ours |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for r in rows:
        if r["op"] in ("roofline", "summary") or r.get("mode") != "perf" or ("fwd_ms" not in r and "step_ms" not in r):
            continue
        if options.only and not any(fnmatch.fnmatch(f"{r['op']}/{r['row']}", g) or fnmatch.fnmatch(r["op"], g) for g in options.only):
            continue
        if "small: launches count" in r["detail"] and not options.all:
            continue
        name = r["row"].removesuffix(" bf16")
        both = "step_ms" in r  # forward and backward in one
        figures = f"{part(r, 'step')} | with it | | " if both else f"{part(r, 'fwd')} | {part(r, 'bwd')}"
        print(f"| {r['op']} | {name} | {r['detail'].split(',')[0]} | {figures} |")


if __name__ == "__main__":
    main()
