#!/usr/bin/env python3
"""Prints kNewMarks of runtime/text/nfc.cc: the combining marks of today's Unicode that the `tokenizers` library's NFC
treats as ordinary characters, because it was built for an older version.

Run with a Python that has `tokenizers` and `regex`:  python3 tests/data/text/make_nfc_marks.py
"""
import regex
from tokenizers import normalizers

NORMALIZE = normalizers.NFC().normalize_str
FIRST, LAST = "\u0334", "\u0345"  # marks of the lowest class in use and of the highest


def is_ordinary(mark):
    """A mark would trade places with one of a lower class after it, or of a higher class before it."""
    return NORMALIZE("b" + LAST + mark) == "b" + LAST + mark and NORMALIZE("b" + mark + FIRST) == "b" + mark + FIRST


def main():
    ranges = []
    for code in range(0x300, 0x110000):
        mark = chr(code)
        if 0xD800 <= code < 0xE000 or mark in FIRST + LAST or regex.match(r"\p{ccc=0}", mark) or not is_ordinary(mark):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    print(", ".join(f"{{0x{first:X}, 0x{last:X}}}" for first, last in ranges))


if __name__ == "__main__":
    main()
