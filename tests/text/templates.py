"""Renders the chat templates that models ship with ours and with transformers' own environment and compares the texts.

Usage: templates.py TEXT_TOOL. What both refuse counts as equal; what only ours refuses is named with its reason and must be in
REFUSED. Exit code 77: transformers or the templates are not there.
"""
import datetime, glob, json, os, subprocess, sys

os.environ["TZ"] = "UTC"
try:
    from transformers.utils import chat_template_utils
except (ImportError, OSError) as error:
    print("skipped: transformers:", error)
    sys.exit(77)
import vocabularies

tool = sys.argv[1]
folder = vocabularies.llama_folder()
files = sorted(glob.glob(os.path.join(folder, "templates", "*.jinja"))) if folder else []
if not files:
    print("skipped: the chat templates of llama-cpp-python's source package are not unpacked")
    sys.exit(77)

REFUSED = {}  # file name -> a part of the reason


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, 0, 0, 0)


chat_template_utils.datetime = FixedClock


def message(role, content, **more):
    return dict(role=role, content=content, **more)


WEATHER = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather \u00e9 <now>",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "The city"}, "unit": {"type": "string", "enum": ["c", "f"]}}}}}]
CALL = [{"type": "function", "id": "call_1234", "function": {
    "name": "get_weather", "arguments": {"city": "Paris", "n": 1.5, "ok": True, "none": None}}}]
CONVERSATIONS = [
    dict(messages=[message("user", "Hello")], add_generation_prompt=True),
    dict(messages=[message("system", "Be kind."), message("user", 'Hi "there"\n'), message("assistant", "Yo <b>"),
                   message("user", " What\u2019s up? ")], add_generation_prompt=True),
    dict(messages=[message("user", "a"), message("assistant", "b")], add_generation_prompt=False),
    dict(messages=[message("user", "Weather?")], tools=WEATHER, add_generation_prompt=True),
    dict(messages=[message("system", "S"), message("user", "Weather?"), message("assistant", "", tool_calls=CALL),
                   message("tool", "22C", name="get_weather", tool_call_id="call_1234"), message("assistant", "It is 22C.")],
         tools=WEATHER, add_generation_prompt=False),
    dict(messages=[message("user", "q"), message("assistant", "<think>hmm</think>answer", reasoning_content="hmm"),
                   message("user", "again")], add_generation_prompt=True, enable_thinking=False),
    dict(messages=[message("user", [{"type": "text", "text": "part"}])], add_generation_prompt=True),
    dict(messages=[], add_generation_prompt=True),
    dict(messages=[message("assistant", "first")], add_generation_prompt=False),
    dict(messages=[message("user", "x"), message("user", "y")], add_generation_prompt=True),
    dict(messages=[{"role": "user"}], add_generation_prompt=True),
]
for c in CONVERSATIONS:
    for name, value in (("bos_token", "<s>"), ("eos_token", "</s>"), ("tools", None), ("documents", None)):
        c.setdefault(name, value)


def reference(source, conversation):
    try:
        return chat_template_utils._compile_jinja_template(source).render(**conversation)
    except Exception as error:
        return error


renders = different = both_refuse = 0
for path in files:
    name, source = os.path.basename(path), open(path, newline="").read()
    run = subprocess.run([tool, "template", path], input="".join(json.dumps(c) + "\n" for c in CONVERSATIONS), capture_output=True, text=True)
    if run.returncode:
        reason = run.stderr.strip()
        print("refused:", name, reason[-160:])
        different += not (name in REFUSED and REFUSED[name] in reason)
        continue
    for i, (c, ours) in enumerate(zip(CONVERSATIONS, map(json.loads, run.stdout.splitlines()))):
        want = reference(source, c)
        renders += 1
        if isinstance(want, Exception):
            both_refuse += "error" in ours
            if "error" in ours:
                continue
            print(name, i, "the reference refuses:", repr(want)[:120])
        elif "error" in ours:
            print(name, i, "refused:", ours["error"][-150:])
        elif ours["text"] == want:
            continue
        else:
            k = next((k for k in range(min(len(want), len(ours["text"]))) if want[k] != ours["text"][k]), min(len(want), len(ours["text"])))
            print(name, i, "differs at", k, ascii(ours["text"][max(0, k - 30):k + 30]), "want", ascii(want[max(0, k - 30):k + 30]))
        different += 1
print(len(files), "templates,", renders, "renders,", different, "different,", both_refuse, "refused by both")
sys.exit(1 if different else 0)
