"""Runs the bootstrap script in a folder of its own with stand-ins for the outside: each thing that can be missing has one
message and one exit code, and nothing is built."""
import pathlib, re, shutil, subprocess, sys, tempfile

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


def run(folder, stubs, env, wait=None):
    bin_ = folder / "bin"
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
    here = folder / "src"
    (here / "tools").mkdir(parents=True)
    shutil.copy(root / "weft", here / "weft")
    shutil.copy(root / "tools/packages.txt", here / "tools/packages.txt")
    (folder / "torch-2.5").mkdir()
    (folder / "torch-2.5/version.py").write_text("__version__ = '2.5.1+cpu'\n")
    env = {"HOME": str(folder), "PATH": path, "WEFT_CUDA": "off", **{k: v.format(dir=folder) for k, v in env.items()}}
    if wait:
        wait(here)
    return subprocess.run([shutil.which("bash"), here / "weft", "version"], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def hold_lock(here):  # another ./weft at work: its lock is dropped a second later
    (here / "build").mkdir()
    child = subprocess.Popen([sys.executable, "-c", f"import fcntl,time; f=open({str(here / 'build/.lock')!r},'w'); fcntl.flock(f,2); print(flush=True); time.sleep(1)"], stdout=subprocess.PIPE)
    child.stdout.readline()


failed = 0
for name, stubs, env, code, says in cases + [("two at once", {"uname": "#!/bin/sh\necho riscv64\n"}, {}, 69, r"another ./weft is at work .*: waiting\n(.|\n)*riscv64")]:
    with tempfile.TemporaryDirectory() as folder:
        got = run(pathlib.Path(folder), stubs, env, hold_lock if name == "two at once" else None)
        ok = got.returncode == code and re.search(says, got.stderr) and got.stdout == ""
        failed += not ok
        print(f"{name:30} {got.returncode:4}  {'' if ok else 'WANT ' + str(code) + ' ' + says + ' GOT '}{got.stderr.strip()}")
sys.exit(1 if failed else 0)
