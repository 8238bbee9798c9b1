#!/usr/bin/env python3
"""Fails when a source file is longer than a reader can hold: 500 lines, kernels and tests included."""
import pathlib
import sys

LIMIT = 500
SOURCES = {".h", ".cc", ".cu", ".cuh", ".proto", ".py"}


def main() -> int:
    root = pathlib.Path(sys.argv[1]).resolve()
    too_long = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.suffix not in SOURCES or relative.startswith(("build/", ".")) or "venv/" in relative or "/generated/" in relative:
            continue
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > LIMIT:
            too_long.append(f"{relative}: {lines} lines, the limit is {LIMIT}")
    print("\n".join(too_long) if too_long else "every file is within its budget")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
