"""Runs the bootstrap script in a folder of its own with stand-ins for the outside: each thing that can be missing has one
message and one exit code; nothing is built twice."""
import os, pathlib, re, shutil, subprocess, sys, tempfile, time

root = pathlib.Path(__file__).resolve().parents[2]
packages = [w for line in (root / "tools/packages.txt").read_text().splitlines() for w in line.split("#")[0].split()]
installed = "#!/bin/sh\n" + "\n".join(f"echo installed {p}" for p in packages)
venv = "#!/bin/sh\n[ \"$2\" = venv ] || exit 1\nmkdir -p \"$3/bin\"\nprintf '#!/bin/sh\\necho \"%s\"; exit 1' > \"$3/bin/python\"\nchmod +x \"$3/bin/python\"\n"
disk = "#!/bin/sh\necho head\necho fs 1 1 {} 1% /\n"
usual = {"dpkg-query": installed, "df": disk.format(999999), "uname": "#!/bin/sh\necho x86_64\n", "python3": "#!/bin/sh\nexit 1\n"}
cases = [
    ("value of WEFT_CUDA", {}, {"WEFT_CUDA": "maybe"}, 2, r"WEFT_CUDA: got 'maybe', want auto, on or off"),
    ("wrong torch", {}, {"WEFT_TORCH": "{dir}/torch-2.5"}, 2, r"got torch '2.5.1', want 2.11"),
    ("no torch there", {}, {"WEFT_TORCH": "{dir}/nothing"}, 2, r"got torch '', want 2.11"),
    ("another architecture", {"uname": "#!/bin/sh\necho riscv64\n"}, {}, 69, r"for x86_64: this machine is riscv64"),
    ("too little disk", {"df": disk.format(100)}, {}, 69, r"too little disk for torch: 100 MiB free .* want \d+ MiB. Try: "),
    ("package source out of reach", {"dpkg-query": "#!/bin/sh\n", "apt-get": "#!/bin/sh\nexit 100\n"}, {}, 69, r"package source cannot be reached"),
    ("no root and no sudo", {"dpkg-query": "#!/bin/sh\n", "id": "#!/bin/sh\necho 1000\n", "sudo": None}, {}, 69, r"no sudo. Try, as root: apt-get install .*ninja-build"),
    ("package index out of reach", {"python3": venv % "Could not find a version"}, {}, 69, r"torch cannot be had from the Python package index .*Try: check the network"),
    ("disk fills up on the way", {"python3": venv % "No space left on device"}, {}, 69, r"the disk filled up while installing torch"),
]


def make(folder, stubs, env):  # a checkout with stand-ins; returns a function that runs its script
    bin_, here = folder / "bin", folder / "src"
    bin_.mkdir()
    for name, text in {**usual, **stubs}.items():
        if text is not None:
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
    path = f"{bin_}:/usr/bin:/bin"
    if "sudo" in stubs:  # a PATH with everything but sudo
        plain = folder / "plain"
        plain.mkdir()
        for tool in ("bash", "sh", "readlink", "dirname", "cat", "sed", "tr", "grep", "sort", "comm", "awk", "mkdir", "flock", "find"):
            (plain / tool).symlink_to(shutil.which(tool))
        path = f"{bin_}:{plain}"
    for sub in ("tools", "src", "cmake", "build"):
        (here / sub).mkdir(parents=True)
    shutil.copy(root / "weft", here / "weft")
    for name in ("packages.txt", "oracles.txt", "oracle_sources.txt"):
        shutil.copy(root / "tools" / name, here / "tools" / name)
    for name, version in (("torch-2.5", "2.5.1+cpu"), ("torch-2.11", "2.11.0+cu130")):
        (folder / name / "lib").mkdir(parents=True)
        (folder / name / "version.py").write_text(f"__version__ = '{version}'\n")
        (folder / name / "lib/libtorch_cpu.so").write_text("")
    (here / "CMakeLists.txt").write_text("")
    env = {"HOME": str(folder), "PATH": path, "WEFT_CUDA": "off", **{k: v.format(dir=folder) for k, v in env.items()}}
    bash = shutil.which("bash")
    return lambda *arguments: subprocess.run([bash, here / "weft", *arguments], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def hold_lock(here):  # another ./weft at work: its lock is dropped a second later
    child = subprocess.Popen([sys.executable, "-c", f"import fcntl,time; f=open({str(here / 'build/.lock')!r},'w'); fcntl.flock(f,2); print(flush=True); time.sleep(1)"], stdout=subprocess.PIPE)
    child.stdout.readline()


failed = 0
def report(name, got, ok, want):
    global failed
    failed += not ok
    print(f"{name:30} {got.returncode:4}  {'' if ok else 'WANT ' + want + ' GOT ' + got.stdout}{got.stderr.strip()}")


for name, stubs, env, code, says in cases + [("two at once", {"uname": "#!/bin/sh\necho riscv64\n"}, {}, 69, r"another ./weft is at work .*: waiting\n(.|\n)*riscv64")]:
    with tempfile.TemporaryDirectory() as folder:
        run = make(pathlib.Path(folder), stubs, env)
        if name == "two at once":
            hold_lock(pathlib.Path(folder) / "src")
        got = run("version")
        report(name, got, got.returncode == code and re.search(says, got.stderr) and got.stdout == "", f"{code} {says}")

# The way where nothing is missing: build once, run at once afterwards, build again when a source is newer, run the tests.
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    built = "#!/bin/sh\n# ninja -C DIR -j N TARGET\nprintf '#!/bin/sh\\necho ran \"$@\"; exit 7\\n' > $2/weft; chmod +x $2/weft; echo built $5 >> $2/log\n"
    python = "#!/bin/sh\nmkdir -p \"$3/bin\" \"$3/lib/python3.11/site-packages\"\nprintf '#!/bin/sh\\nexit 0' > \"$3/bin/python\"\nchmod +x \"$3/bin/python\"\n"
    ctest = "#!/bin/sh\necho ctest \"$WEFT_ORACLES\" \"$@\"\n"
    run = make(folder, {"cmake": "#!/bin/sh\nexit 0\n", "ninja": built, "python3": python, "ctest": ctest}, {"WEFT_TORCH": "{dir}/torch-2.11"})
    log = folder / "src/build/cpu/log"
    got = run("demo", "a b")
    report("first call builds and runs", got, got.returncode == 7 and got.stdout == "ran demo a b\n" and log.read_text() == "built weft\n", "7, one build")
    got = run("--yes", "version")
    report("second call runs at once", got, got.returncode == 7 and got.stdout == "ran version\n" and log.read_text() == "built weft\n", "7, no build")
    os.utime(folder / "src/CMakeLists.txt", (time.time() + 5, time.time() + 5))
    got = run("version")
    report("a newer source builds again", got, got.returncode == 7 and log.read_text() == "built weft\n" * 2, "7, two builds")
    got = run("test", "-R", "Config")
    report("tests build all, with oracles", got, got.returncode == 0 and log.read_text().endswith("built all\n") and
           re.search(r"^ctest \S+/oracles/bin/python --test-dir .* -R Config", got.stdout), "0, built all, ctest")
    lent = folder / ".cache/weft/oracles/lib/python3.11/site-packages/torch.pth"
    report("torch is lent to the oracles", got, lent.read_text() == f"{folder}\n", str(folder))
sys.exit(1 if failed else 0)
