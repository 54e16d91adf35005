"""The side streams of `prepare --structure cpp` against clang.cindex, written from docs/structure.md and nothing else.

Prepares a tree of C++ with single bytes as tokens, then for bytes of every function and preamble finds the cursors around them with the
Python binding and recomputes depth, sibling index, node type and dep level; bytes of tokens must be those of the source. The library
of the wheel is used by both sides; the unit tests are then run with it too.
Usage: structure_oracle.py DATA_TOOL DATA_TEST SOURCE_DIR [BYTES]. Exit 0 when all is equal, 77 when clang.cindex is not installed.
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

try:
    import numpy
    from clang import cindex
    from clang.cindex import CursorKind as K
except (ImportError, OSError) as error:
    print("skipped:", error)
    sys.exit(77)

LIBRARY = str(pathlib.Path(cindex.__file__).parent / "native" / "libclang.so")
NAMES = {
    "namespace": [K.NAMESPACE], "struct": [K.STRUCT_DECL], "class": [K.CLASS_DECL], "enum": [K.ENUM_DECL], "class template": [K.CLASS_TEMPLATE],
    "type alias": [K.TYPEDEF_DECL, K.TYPE_ALIAS_DECL], "template parameter": [K.TEMPLATE_TYPE_PARAMETER, K.TEMPLATE_NON_TYPE_PARAMETER], "base class": [K.CXX_BASE_SPECIFIER],
    "access": [K.CXX_ACCESS_SPEC_DECL], "function": [K.FUNCTION_DECL], "method": [K.CXX_METHOD], "constructor": [K.CONSTRUCTOR], "destructor": [K.DESTRUCTOR],
    "function template": [K.FUNCTION_TEMPLATE], "parameter": [K.PARM_DECL], "variable": [K.VAR_DECL], "field": [K.FIELD_DECL], "enumerator": [K.ENUM_CONSTANT_DECL],
    "type name": [K.TYPE_REF], "template name": [K.TEMPLATE_REF], "namespace name": [K.NAMESPACE_REF], "member name": [K.MEMBER_REF, K.OVERLOADED_DECL_REF],
    "value": [K.DECL_REF_EXPR], "member": [K.MEMBER_REF_EXPR], "call": [K.CALL_EXPR], "unary": [K.UNARY_OPERATOR], "binary": [K.BINARY_OPERATOR],
    "compound assignment": [K.COMPOUND_ASSIGNMENT_OPERATOR], "conditional": [K.CONDITIONAL_OPERATOR], "subscript": [K.ARRAY_SUBSCRIPT_EXPR],
    "cast": [K.CXX_STATIC_CAST_EXPR, K.CXX_REINTERPRET_CAST_EXPR, K.CXX_FUNCTIONAL_CAST_EXPR], "parentheses": [K.PAREN_EXPR], "initializer list": [K.INIT_LIST_EXPR],
    "lambda": [K.LAMBDA_EXPR], "this": [K.CXX_THIS_EXPR], "throw": [K.CXX_THROW_EXPR], "number": [K.INTEGER_LITERAL, K.FLOATING_LITERAL], "string": [K.STRING_LITERAL],
    "character": [K.CHARACTER_LITERAL], "bool or null": [K.CXX_BOOL_LITERAL_EXPR, K.CXX_NULL_PTR_LITERAL_EXPR], "block": [K.COMPOUND_STMT], "declaration": [K.DECL_STMT],
    "if": [K.IF_STMT], "switch": [K.SWITCH_STMT, K.CASE_STMT], "loop": [K.FOR_STMT, K.WHILE_STMT, K.CXX_FOR_RANGE_STMT], "return": [K.RETURN_STMT],
    "jump": [K.BREAK_STMT, K.CONTINUE_STMT], "macro definition": [K.MACRO_DEFINITION], "macro use": [K.MACRO_INSTANTIATION], "include": [K.INCLUSION_DIRECTIVE],
}
DIRECTIVES = {K.PREPROCESSING_DIRECTIVE, K.MACRO_DEFINITION, K.MACRO_INSTANTIATION, K.INCLUSION_DIRECTIVE}
FUNCTIONS = {K.FUNCTION_DECL, K.CXX_METHOD, K.CONSTRUCTOR, K.DESTRUCTOR, K.CONVERSION_FUNCTION, K.FUNCTION_TEMPLATE}


class File:
    """Cursors of one file in the order of a walk, parents first: (begin, end, depth, sibling, kind value)."""

    def __init__(self, path, arguments):
        self.path = path
        self.unit = cindex.Index.create().parse(path, args=arguments, options=0x01 | 0x200)
        top = list(self.unit.cursor.get_children())
        self.directives = [(s, c.kind.value) for c in top if c.kind in DIRECTIVES and (s := self.span(c.extent))]
        uses = [s for s, kind in self.directives if kind == K.MACRO_INSTANTIATION.value]
        self.uses = uses
        self.cursors, self.calls, self.symbols = [], {}, {}
        self.walk(self.unit.cursor, 0, None)
        source = self.unit.get_extent(path, (0, os.path.getsize(path)))
        self.comments = [s for t in self.unit.get_tokens(extent=source) if t.kind == cindex.TokenKind.COMMENT and (s := self.span(t.extent))]

    def span(self, extent):
        a, b = extent.start, extent.end
        if a.file is None or b.file is None or a.file.name != self.path or b.file.name != self.path or a.offset >= b.offset:
            return None
        return a.offset, b.offset

    def walk(self, cursor, depth, owner):
        place = 0
        for child in cursor.get_children():
            if child.kind in DIRECTIVES:
                continue
            span = self.span(child.extent)
            if span is None or any(u[0] <= span[0] and span[1] <= u[1] for u in self.uses):
                continue
            self.cursors.append((span[0], span[1], depth + 1, place, child.kind.value))
            place += 1
            mine = owner
            if owner is None and child.kind in FUNCTIONS:
                bodies = [g for g in child.get_children() if g.kind in (K.COMPOUND_STMT, K.CXX_TRY_STMT) and self.span(g.extent)]
                if bodies:
                    mine = span[0]
                    self.calls[mine], self.symbols[mine] = [], child.get_usr()
            if owner is not None and child.kind == K.CALL_EXPR and child.referenced is not None:
                to = child.referenced
                pattern = cindex.conf.lib.clang_getSpecializedCursorTemplate(to)
                self.calls[owner].append((pattern if pattern is not None else to).get_usr())
            self.walk(child, depth + 1, mine)

    def at(self, offset):
        depth, sibling, kind = 0, 0, 0
        for begin, end, d, s, k in self.cursors:
            if begin <= offset < end:
                depth, sibling, kind = d, s, k
        for (begin, end), k in self.directives:
            if begin <= offset < end:
                kind = k
        if any(begin <= offset < end for begin, end in self.comments):
            kind = "comment"
        return depth, sibling, kind


def byte_of_ids(folder):
    vocab = json.load(open(folder + "/tokenizer.json"))["model"]["vocab"]
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = {b: chr(b) for b in plain}
    for i, b in enumerate(b for b in range(256) if b not in plain):
        letters[b] = chr(256 + i)
    return {vocab[letter]: b for b, letter in letters.items() if letter in vocab}


def table(path):
    rows = [r.split("|")[1:-1] for r in open(path) if r.startswith("| ") and r.count("|") == 5]
    return {r[1].strip(): int(r[0]) for r in rows if r[0].strip().isdigit()}


def main():
    tool, test, root = sys.argv[1:4]
    samples = int(sys.argv[4]) if len(sys.argv) > 4 else 6000
    environment = dict(os.environ, WEFT_LIBCLANG=LIBRARY)
    rng = random.Random(11)
    with tempfile.TemporaryDirectory() as work:
        tree, out = work + "/tree", work + "/out"
        os.makedirs(tree + "/base")
        for name in ("text", "rng", "files", "error"):
            for end in (".h", ".cpp"):
                shutil.copy(f"{root}/src/base/{name}{end}", f"{tree}/base/{name}{end}")
        shutil.copy(root + "/tests/data/structure_sample.cpp", tree + "/sample.cpp")
        got = subprocess.run([tool, "structure", tree, out], env=environment, capture_output=True, text=True)
        assert got.returncode == 0, got.stderr
        arguments = json.loads(got.stdout)
        files = {path: File(path, args) for path, args in arguments.items()}
        prefix = out + "/train_text_document"
        side = json.load(open(prefix + ".idx.json"))["side_channel_paths"]
        stream = {n: numpy.fromfile(out + "/" + side["token_" + n]["path"], side["token_" + n]["dtype"]) for n in
                  ("structure_ids", "dep_levels", "ast_depth", "sibling_index", "ast_node_type")}
        raw = open(prefix + ".idx", "rb").read()
        ids = numpy.fromfile(prefix + ".bin", {8: "<u2", 4: "<i4"}[raw[17]])
        assert all(len(v) == len(ids) for v in stream.values())
        types, bytes_of = table(root + "/docs/structure.md"), byte_of_ids(out)
        kinds = {k.value: types[name] for name, list_ in NAMES.items() for k in list_}
        kinds["comment"] = types["comment"]

        # Levels: the longest way down among the functions of the tree; cycles stand above all.
        first = {}
        for f in sorted(files):
            for begin, symbol in sorted(files[f].symbols.items()):
                first.setdefault(symbol, (f, begin))
        def resolve(f, symbol):
            here = [b for b, s in sorted(files[f].symbols.items()) if s == symbol]
            return (f, here[0]) if here else first.get(symbol)
        callees = {(f, b): [c for s in files[f].calls[b] if (c := resolve(f, s)) and c != (f, b)] for f in files for b in files[f].symbols}
        level, changed = {}, True
        while changed:
            changed = False
            for key, list_ in callees.items():
                if key not in level and all(c in level for c in list_):
                    level[key], changed = 1 + max((level[c] for c in list_), default=-1), True
        top = max(level.values()) + 1

        texts = {f: open(f, "rb").read() for f in files}
        places, at, functions = {}, 0, 0
        for line in open(prefix + ".documents.jsonl"):
            document = json.loads(line)
            for chunk in document["chunks"]:
                count = chunk["end"] - chunk["start"] - 2  # without the empty line behind it
                f, begin = chunk["file"], chunk["offset"]
                tokens = ids[at + chunk["start"]: at + chunk["start"] + count]
                assert bytes(bytes_of[int(i)] for i in tokens) == texts[f][begin: begin + count], (f, chunk)
                assert all(stream[n][at + chunk["end"] - 1] == numpy.iinfo(stream[n].dtype).max for n in ("ast_depth", "sibling_index", "ast_node_type"))
                if chunk["kind"] != 0:
                    inside = [b for b in files[f].symbols if begin <= b < begin + count]
                    want = level.get((f, min(inside)), top)
                    assert chunk["dep_level"] == want, (chunk, want)
                    functions += 1
                for i in range(count):
                    places.setdefault((f, begin + i), at + chunk["start"] + i)
            at += document["tokens"]
        assert at == len(ids)
        chosen = sorted(places) if len(places) <= samples else sorted(rng.sample(sorted(places), samples))
        named = 0
        for f, offset in chosen:
            depth, sibling, kind = files[f].at(offset)
            token = places[f, offset]
            found = (int(stream["ast_depth"][token]), int(stream["sibling_index"][token]))
            context = texts[f][max(0, offset - 30): offset].decode(errors="replace") + "<HERE>" + texts[f][offset: offset + 30].decode(errors="replace")
            assert found == (depth, sibling), (f, offset, found, (depth, sibling), context)
            if kind in kinds:
                named += 1
                assert stream["ast_node_type"][token] == kinds[kind], (f, offset, int(stream["ast_node_type"][token]), kind, context)
        # A shift by one token must not go unnoticed.
        wrong = sum(int(stream["ast_depth"][places[f, o] - 1]) != files[f].at(o)[0] for f, o in chosen[1:] if places[f, o] > 0)
        assert wrong > len(chosen) // 20, wrong
        print(f"{len(files)} files, {functions} functions in documents, {len(ids)} tokens; {len(chosen)} bytes equal in depth and sibling, {named} in node type; a shift is seen at {wrong}")
    got = subprocess.run([test, "--gtest_filter=Structure.*"], env=environment, capture_output=True, text=True)
    print(got.stdout[-200:])
    assert got.returncode == 0 and "SKIPPED" not in got.stdout, got.stdout + got.stderr


main()
