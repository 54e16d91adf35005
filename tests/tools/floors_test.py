"""Plants one fault after another in a small tree and asks tools/floors.py to find exactly it."""
import pathlib, subprocess, sys, tempfile

tool = pathlib.Path(__file__).resolve().parents[2] / "tools" / "floors.py"
floors = "low torch-free:\nmid: low/a.h\nhigh: mid low\napp: *\n"
clean = {"low/a.h": "", "low/b.h": '#include "low/a.h"\n#include <vector>\n', "mid/m.h": '#include "low/a.h"\n#include <ATen/core/Tensor.h>\n',
         "high/h.cpp": '#include "mid/m.h"\n#include "low/b.h"\n', "app/main.cpp": '#include "high/x.h"\n', "high/x.h": ""}
cases = [
    ({}, floors, None),
    ({"low/a.h": '#include "mid/m.h"\n'}, floors, "low/a.h:1: low/ may not include mid/m.h"),
    ({"mid/n.cpp": '#include "low/b.h"\n'}, floors, "mid/n.cpp:1: mid/ may not include low/b.h"),
    ({"mid/n.cpp": '  # include "high/x.h"\n'}, floors, "mid/n.cpp:1: mid/ may not include high/x.h"),
    ({"low/a.h": '#include "low/b.h"\n'}, floors, "cycle: low/a.h -> low/b.h -> low/a.h"),
    ({"attic/z.h": ""}, floors, "attic/z.h: folder attic/ has no floor"),
    ({"low/t.cpp": "#include <torch/torch.h>\n"}, floors, "low/t.cpp:1: low/ is free of torch"),
    ({"low/k.cu": '#include "high/x.h"\n'}, floors, "low/k.cu:1: low/ may not include high/x.h"),
    ({"mid/n.cpp": '#include "m.h"\n'}, floors, "mid/n.cpp:1: m.h is not a file of src/"),
    ({"mid/n.cpp": "void f() { at::parallel_for(0, 1, 1, g); }\n"}, floors, "mid/n.cpp:1: at::parallel_for"),
    ({"mid/parallel.cpp": "void f() { at::parallel_for(0, 1, 1, g); }\n"}, floors, "mid/parallel.cpp:1: at::parallel_for"),
    ({"ops/parallel.cpp": "// instead of at::parallel_for\n"}, "ops:\n" + floors, None),
    ({}, floors.replace("low torch-free:", "low torch-free: mid"), "lists mid, which does not lie below it"),
]
failed = 0
for planted, table, want in cases:
    with tempfile.TemporaryDirectory() as folder:
        src = pathlib.Path(folder) / "src"
        for name, text in {**clean, **planted}.items():
            (src / name).parent.mkdir(parents=True, exist_ok=True)
            (src / name).write_text(text)
        (src.parent / "floors.txt").write_text(table)
        run = subprocess.run([sys.executable, tool, src, src.parent / "floors.txt"], capture_output=True, text=True)
        ok = run.returncode == 0 if want is None else run.returncode == 1 and want in run.stdout
        if not ok:
            failed += 1
            print(f"planted {planted or table!r}: want {want!r}, got exit {run.returncode}: {run.stdout}{run.stderr}")
print(f"{len(cases) - failed} of {len(cases)} cases")
sys.exit(1 if failed else 0)
