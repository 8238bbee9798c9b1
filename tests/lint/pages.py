#!/usr/bin/env python3
"""Fails when a Markdown page links to a file or heading that is not there, or shows a command whose line goes on behind a
backslash that is not the last character: a shell ends the command there."""
import pathlib
import re
import sys

ELSEWHERE = re.compile(r"[a-z]+:")
# What is not ours; a virtual environment may be called quality-venv.
SKIPPED = ("build", "venv", "generated")


def pages(root: pathlib.Path) -> list:
    found = (path.relative_to(root) for path in root.rglob("*.md"))
    return sorted(path for path in found if not any(part.endswith(SKIPPED) or part.startswith(".") for part in path.parts))


def anchors(page: pathlib.Path) -> set:
    """GitHub's names of the headings."""
    titles = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8")))
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in plain}


def faults(root: pathlib.Path, page: pathlib.Path):
    text = (root / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = root / page.parent / path if path else root / page
        if not target.exists():
            yield f"{page}: nothing is at {link}"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"{page}: no heading of {link}"
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\\[ \t]+(#.*)?$", line):
            yield f"{page}:{number}: the command ends at this backslash"


def main() -> int:
    root = pathlib.Path(sys.argv[1]).resolve()
    found = [fault for page in pages(root) for fault in faults(root, page)]
    print("\n".join(found) if found else "every link leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
