#!/usr/bin/env python3
"""Compiles the sources of a build once more, one at a time and without the compiler cache, and prints what each one cost:
build_figures.py BUILD [--only GLOB]... [--times N] [--json FILE] [--binary PROGRAM]

BUILD       a configured build folder (it holds compile_commands.json)
--only      sources whose path from the repository's root matches, "src/kernels/*.cu"; repeated: any of them. Default: all under src/
--times     rows of the table printed, the costliest first (default 20); the totals are always of all
--json      a list of rows: source, cpu_s, wall_s, peak_mib, object_kib
--binary    also prints this program's size with its symbols stripped

cpu_s is the processor time of the compiler with all its passes, wall_s the clock's, peak_mib the memory of its largest process. A build
spreads cpu_s over its cores; wall_s says more on an idle machine alone. Objects go to a folder that is removed. Exit 1: a compile failed."""
import argparse, fnmatch, json, os, pathlib, shlex, shutil, subprocess, sys, tempfile, time

root = pathlib.Path(__file__).resolve().parents[1]


def command_of(entry, object_file):
    words = shlex.split(entry["command"]) if "command" in entry else list(entry["arguments"])
    words = words[1:] if pathlib.Path(words[0]).name == "ccache" else words
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == "-o":
            kept += ["-o", str(object_file)]
            skip = True
        elif word in ("-MF", "-MT", "-MQ"):
            skip = True
        elif word not in ("-MD", "-MMD"):
            kept.append(word)
    return kept


def measure(entry, folder):
    object_file = folder / "out.o"
    started = time.monotonic()
    child = subprocess.Popen(command_of(entry, object_file), cwd=entry["directory"], env={**os.environ, "CCACHE_DISABLE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        sys.stderr.write(errors.decode(errors="replace"))
        return None
    return {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": time.monotonic() - started, "peak_mib": used.ru_maxrss / 1024, "object_kib": object_file.stat().st_size / 1024}


def stripped_mib(program, folder):
    copy = folder / "stripped"
    shutil.copy(program, copy)
    subprocess.run(["strip", copy], check=True)
    return copy.stat().st_size / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--only", action="append", default=[], metavar="GLOB")
    parser.add_argument("--times", type=int, default=20, metavar="N")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--binary", type=pathlib.Path, metavar="PROGRAM")
    options = parser.parse_args()
    listing = options.build / "compile_commands.json"
    if not listing.exists():
        sys.exit(f"build_figures: BUILD: got {options.build}, want a configured build folder with compile_commands.json")
    chosen = {}
    for entry in json.loads(listing.read_text()):
        path = pathlib.Path(entry["directory"], entry["file"]).resolve()
        name = str(path.relative_to(root)) if path.is_relative_to(root) else ""
        if name and any(fnmatch.fnmatch(name, glob) for glob in options.only or ["src/*"]):
            chosen.setdefault(name, entry)
    if not chosen:
        sys.exit(f"build_figures: --only: got {options.only}, want a glob that a source of the build matches")
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        for number, (name, entry) in enumerate(sorted(chosen.items()), 1):
            figures = measure(entry, folder)
            failed += figures is None
            if figures is not None:
                rows.append({"source": name, **figures})
                print(f"{number}/{len(chosen)} {name}: {figures['cpu_s']:.1f} s, {figures['peak_mib']:.0f} MiB", file=sys.stderr, flush=True)
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1))
        rows.sort(key=lambda r: -r["cpu_s"])
        print("| source | CPU s | wall s | peak MiB | object KiB |\n| --- | --- | --- | --- | --- |")
        for r in rows[: options.times]:
            print(f"| {r['source']} | {r['cpu_s']:.1f} | {r['wall_s']:.1f} | {r['peak_mib']:.0f} | {r['object_kib']:.0f} |")
        total = sum(r["cpu_s"] for r in rows)
        print(f"\n{len(rows)} sources: {total:.0f} s of processor time, {total / 120:.1f} min on two cores at best; peak {max((r['peak_mib'] for r in rows), default=0):.0f} MiB")
        if options.binary:
            print(f"{options.binary.name} stripped: {stripped_mib(options.binary, folder):.1f} MiB")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
