"""Every fuzz target for so many inputs or so long, and a table: target | inputs | seconds | faults.

run_all.py BUILD [--count N] [--seconds S] [--targets REGEX] [--jobs J] [--faults FOLDER]
BUILD is a build folder; the targets are the tests of CMake's weft_fuzz_test, each with its own seeds. After a fault a target goes
on with the next input; the inputs at fault stay in the folder of --faults. Code 1 when there was one.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time


def targets(build, pattern):
    listed = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1", "-R", r"\.fuzz_"], check=True, capture_output=True, text=True)
    found = {t["name"]: (t["command"][0], t["command"][2:]) for t in json.loads(listed.stdout)["tests"] if re.search(pattern, t["name"])}
    missing = [program for program, _ in found.values() if not os.path.exists(program)]
    if not found or missing:
        sys.exit(f"run_all: no fuzz target in {build}" if not found else f"run_all: not built: {' '.join(missing)}")
    return found


def run(name, program, seeds, count, seconds, keep):
    first, faults, begin = 0, [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        while (count == 0 or first < count) and len(faults) < 20:
            left = max(1, round(seconds - (time.monotonic() - begin))) if seconds else 0
            out = subprocess.run([program, f"{count - first if count else 0}:{left}:{first}", *seeds], cwd=folder, capture_output=True, text=True, errors="replace")
            if out.returncode == 0:
                first += int(out.stdout.split()[-4])
                break
            at = re.search(r"fault at input (\d+)", out.stderr)
            if at is None:
                sys.exit(f"run_all: {name} ended with {out.returncode}, without an input at fault\n{out.stderr[-2000:]}")
            first = int(at.group(1)) + 1
            os.makedirs(keep, exist_ok=True)
            faults.append(os.path.join(keep, f"{name}-{at.group(1)}"))
            shutil.move(os.path.join(folder, "crash.bin"), faults[-1])
            if seconds and time.monotonic() - begin >= seconds:
                break
    return name, first, time.monotonic() - begin, faults


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build")
    p.add_argument("--count", type=int, default=0, help="inputs of each target; 0: as many as the time allows")
    p.add_argument("--seconds", type=float, default=0, help="of each target")
    p.add_argument("--targets", default="", help="those whose names match")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--faults", default="fuzz-faults")
    a = p.parse_args()
    if a.count == 0 and a.seconds == 0:
        p.error("want --count or --seconds")
    found = targets(a.build, a.targets)
    bad = 0
    print("| target | inputs | seconds | faults |\n| --- | ---: | ---: | ---: |", flush=True)
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        rows = [pool.submit(run, name, program, seeds, a.count, a.seconds, os.path.abspath(a.faults)) for name, (program, seeds) in found.items()]
        for row in concurrent.futures.as_completed(rows):
            name, inputs, seconds, faults = row.result()
            bad += len(faults)
            print(f"| {name} | {inputs} | {seconds:.0f} | {len(faults)} |", flush=True)
            for f in faults:
                print(f"  {f}", file=sys.stderr)
    return 1 if bad else 0


sys.exit(main())
