#!/usr/bin/env python3
"""Writes src/text/unicode_tables.inc: what every code point is to Hugging Face's regex engine and pre-tokenizers.

The tables are measured, not copied: each property is asked of the `tokenizers` package (the version that the tests pin),
one code point at a time. Normalization forms and lower case come from utf8proc; only what differs is put down here.
Needs `pip install tokenizers==0.23.2` and libutf8proc. Usage: unicode_tables.py > src/text/unicode_tables.inc
"""
import ctypes
import sys

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
ALL = "".join(map(chr, CODE_POINTS))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
SCRIPTS = """Common Inherited Adlam Ahom Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki
Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Coptic Cuneiform
Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Garay Georgian
Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Gurung_Khema Han Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana
Imperial_Aramaic Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi
Khitan_Small_Script Khmer Khojki Khudawadi Kirat_Rai Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar
Malayalam Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao
Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki
Ol_Onal Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya
Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian
Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese Sunuwar Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet
Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Todhri Toto Tulu_Tigalari Ugaritic Vai Vithkuqi Wancho Warang_Citi
Yezidi Yi Zanabazar_Square""".split()
UTF8PROC = ctypes.CDLL("libutf8proc.so.2")
UTF8PROC.utf8proc_map.argtypes = [ctypes.c_char_p, ctypes.c_ssize_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int]
UTF8PROC.utf8proc_map.restype = ctypes.c_ssize_t
STABLE, COMPAT, DECOMPOSE = 2, 4, 16
LIBC = ctypes.CDLL(None)
LIBC.free.argtypes = [ctypes.c_void_p]


def decomposed(text, flags):
    data, out = text.encode(), ctypes.c_void_p()
    size = UTF8PROC.utf8proc_map(data, len(data), ctypes.byref(out), STABLE | DECOMPOSE | flags)
    result = ctypes.string_at(out, size).decode()
    LIBC.free(out)
    return result


def unknown_to_normalizers(marks):
    """Code points that utf8proc decomposes or reorders and the oracle, whose data are older, leaves alone."""
    nfd, nfkd = normalizers.NFD().normalize_str, normalizers.NFKD().normalize_str
    out = set()
    for c in CODE_POINTS:
        if nfkd(chr(c)) != decomposed(chr(c), COMPAT) or nfd(chr(c)) != decomposed(chr(c), 0):
            out.add(c)
            continue
        for mark in "" if c not in marks else "\u0334\u05b0\u0301\u0345\u3099\u0327":
            for text in ("a" + chr(c) + mark, "a" + mark + chr(c)):
                if nfd(text) != decomposed(text, 0):
                    out.add(c)
    return out


def dropped_by(normalizer):
    return {c for c in CODE_POINTS if normalizer.normalize_str(chr(c)) == ""}


def bert(**on):
    options = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return normalizers.BertNormalizer(**{**options, **on})


def removed_by(pre):
    """The code points that a pre-tokenizer with behaviour `removed` takes away."""
    inside = bytearray([1]) * len(CODE_POINTS)
    for _, (begin, end) in pre.pre_tokenize_str(ALL):
        inside[begin:end] = bytes(end - begin)
    return {c for c, x in zip(CODE_POINTS, inside) if x}


def regex_set(pattern):
    return removed_by(pre_tokenizers.Split(Regex(pattern), "removed"))


def script_runs():
    """Runs of code points that the UnicodeScripts pre-tokenizer takes for one script; 0 joins any script."""
    cut = pre_tokenizers.UnicodeScripts().pre_tokenize_str
    kinds, kind_of = [], {}
    for c in CODE_POINTS:
        x = chr(c)
        if len(cut("a" + x)) == 1 and len(cut("\u03b1" + x)) == 1:
            kind_of[c] = 0
        elif c - 1 in kind_of and kind_of[c - 1] and len(cut(kinds[kind_of[c - 1] - 1] + x)) == 1:
            kind_of[c] = kind_of[c - 1]
        else:
            found = [i for i, k in enumerate(kinds) if len(cut(k + x)) == 1]
            if not found:
                kinds.append(x)
                found = [len(kinds) - 1]
            kind_of[c] = found[0] + 1
    out, last = [], None
    for c in CODE_POINTS:
        if kind_of[c] != last:
            out.append(c * 1024 + kind_of[c])
            last = kind_of[c]
    return out


def main():
    category = {}
    for index, name in enumerate(CATEGORIES):
        for c in regex_set(r"\p{%s}" % name):
            category[c] = index
    script = {}
    for index, name in enumerate(SCRIPTS):
        for c in regex_set(r"\p{%s}" % name):
            script[c] = index + 1
    word = {  # a letter after it joins it into one word
        ord(s[0])
        for s, (b, e) in pre_tokenizers.Whitespace().pre_tokenize_str("".join("\n%ca" % c for c in CODE_POINTS))
        if e - b == 2 and s[1] == "a"
    }
    digits = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a".join(map(chr, CODE_POINTS)))
    sets = [
        regex_set(r"\p{Alphabetic}"),
        regex_set(r"\w"),
        word,
        removed_by(pre_tokenizers.Punctuation("removed")),
        {ord(s) for s, (b, e) in digits if e - b == 1 and s != "a"},
        regex_set(r"\s"),
        unknown_to_normalizers(regex_set(r"\p{M}")),
        dropped_by(normalizers.StripAccents()),
        dropped_by(bert(strip_accents=True)),
        dropped_by(bert(clean_text=True)),
    ]
    lower = normalizers.Lowercase().normalize_str
    lower_odd = [(c, lower(chr(c))) for c in CODE_POINTS if lower(chr(c)) != chr(UTF8PROC.utf8proc_tolower(c))]
    records, runs, last = {}, [], None
    for c in range(0x110000):
        if c in category:
            key = (category[c], sum(1 << i for i, s in enumerate(sets) if c in s), script.get(c, 0))
        else:
            key = (CATEGORIES.index("Cs"), 0, 0)
        if key != last:
            runs.append((c, records.setdefault(key, len(records))))
            last = key
    out = ["// Made by tools/unicode_tables.py from tokenizers %s. Do not edit." % tokenizers.__version__]
    out.append("constexpr const char* kCategoryNames[] = {%s};" % ", ".join('"%s"' % n for n in CATEGORIES))
    out.append("constexpr const char* kScriptNames[] = {%s};" % ", ".join('"%s"' % n for n in ["Unknown"] + SCRIPTS))
    out.append("constexpr Record kRecords[] = {%s};" % ",".join("{%d,%d,%d}" % k for k in records))
    out.append("// First code point of a run of equal records, times 1024, plus the record.")
    out.append("constexpr uint32_t kRuns[] = {%s};" % ",".join(str(c * 1024 + r) for c, r in runs))
    pairs = ",".join("{%d,%d,%d}" % (c, ord(t[0]), ord(t[1]) if len(t) > 1 else 0) for c, t in lower_odd)
    out.append("// Where lower case differs from utf8proc's: code point, one or two others.")
    out.append("constexpr uint32_t kLower[][3] = {%s};" % pairs)
    out.append("// As kRuns, of the UnicodeScripts pre-tokenizer's scripts; 0 joins any.")
    out.append("constexpr uint32_t kScriptRuns[] = {%s};" % ",".join(map(str, script_runs())))
    assert len(records) < 1024
    width = 156
    for line in out:
        while len(line) > width:
            cut = line.rfind(",", 0, width) + 1
            print(line[:cut])
            line = line[cut:].lstrip()
        print(line)
    print("%d records, %d runs" % (len(records), len(runs)), file=sys.stderr)


main()
