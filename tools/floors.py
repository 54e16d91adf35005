#!/usr/bin/env python3
"""Checks that every include in src/ goes down the floors of tools/floors.txt, and that no source calls at::parallel_for itself (it is
serial where OpenMP is off; ops/parallel.h is not): floors.py [SRC [FLOORS]]. Prints each fault; exit 1."""
import pathlib, re, sys

root = pathlib.Path(__file__).resolve().parent
src = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root.parent / "src"
table = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "floors.txt"
faults, floors, torch_free, known = [], {}, set(), []

for number, line in enumerate(table.read_text().splitlines(), 1):
    if not line.strip() or line.startswith("#"):
        continue
    head, may = line.split(":")
    folder, *marks = head.split()
    floors[folder] = set(known) if may.split() == ["*"] else set(may.split())
    torch_free |= {folder} if "torch-free" in marks else set()
    for m in floors[folder]:
        if m.split("/")[0] not in known:
            faults.append(f"{table.name}:{number}: {folder} lists {m}, which does not lie below it")
    known.append(folder)

includes = {}  # file -> files of src/ that it includes
for path in sorted(p for p in src.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")):
    name = path.relative_to(src)
    folder = name.parts[0]
    if folder not in floors:
        faults.append(f"{name}: folder {folder}/ has no floor in {table.name}")
        continue
    includes[str(name)] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if "at::parallel_for" in line and str(name) not in ("ops/parallel.cpp", "ops/parallel.h"):
            faults.append(f"{name}:{number}: at::parallel_for; ops/parallel.h has the loop that is never serial")
        found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)', line)
        if not found:
            continue
        quote, what = found.groups()
        if re.match(r"(torch|ATen|c10|caffe2)/", what) and folder in torch_free:
            faults.append(f"{name}:{number}: {folder}/ is free of torch, but includes {what}")
        if quote == '"':
            if not (src / what).exists():
                faults.append(f"{name}:{number}: {what} is not a file of src/ (includes are written from there)")
            elif (to := what.split("/")[0]) != folder and not floors[folder] & {to, what}:
                faults.append(f"{name}:{number}: {folder}/ may not include {what}")
            includes[str(name)].append(what)

done, trail = set(), []
def walk(file):  # depth first: a file met again on its own trail closes a cycle
    if file in trail:
        faults.append("cycle: " + " -> ".join(trail[trail.index(file):] + [file]))
    elif file not in done:
        trail.append(file)
        for to in includes.get(file, []):
            walk(to)
        done.add(trail.pop())
for file in includes:
    walk(file)

print("\n".join(faults) if faults else f"floors: {len(includes)} files, no fault")
sys.exit(1 if faults else 0)
