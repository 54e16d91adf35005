#!/usr/bin/env python3
"""Writes src/text/unicode_tables.inc: what every code point is to Hugging Face's regex engine and pre-tokenizers.

The tables are measured, not copied: each property is asked of the `tokenizers` package (the version that the tests pin),
one code point at a time. Needs `pip install tokenizers==0.23.2`. Usage: unicode_tables.py > src/text/unicode_tables.inc
"""
import sys

import tokenizers
from tokenizers import Regex, pre_tokenizers

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
BITS = ["kAlphabetic", "kOnigWord", "kRegexWord", "kPunctuation", "kNumeric", "kSpace"]


def removed_by(pre):
    """The code points that a pre-tokenizer with behaviour `removed` takes away."""
    inside = bytearray([1]) * len(CODE_POINTS)
    for _, (begin, end) in pre.pre_tokenize_str(ALL):
        inside[begin:end] = bytes(end - begin)
    return {c for c, x in zip(CODE_POINTS, inside) if x}


def regex_set(pattern):
    return removed_by(pre_tokenizers.Split(Regex(pattern), "removed"))


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
    ]
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
