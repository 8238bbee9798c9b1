#!/usr/bin/env python3
"""Proves that the lints can fail: a planted violation of each rule must be found."""
import pathlib
import re
import subprocess
import sys
import tempfile

from include_graph import ALLOWED

HERE = pathlib.Path(__file__).resolve().parent


def run(script: str, files: dict) -> int:
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = pathlib.Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return subprocess.run([sys.executable, HERE / script, root], stdout=subprocess.DEVNULL, check=False).returncode


def the_map_is_right() -> bool:
    """docs/architecture.md says of each folder what include_graph.py allows; `kernels` stands for its `core` too."""
    page = (HERE.parents[1] / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `([a-z/]+?)/?` \|.*\| ([^|]*) \|$", page)
    folders = {folder: re.findall(r"`([a-z/]+)`", may) for folder, may in rows if folder not in ("kernels", "tools")}

    def whole(names):
        return {name.replace("kernels/core", "kernels") for name in names}
    shown = {folder: whole(names) for folder, names in folders.items()}
    allowed = {folder: whole(ALLOWED[folder]) for folder in shown}
    return len(shown) == 8 and shown == allowed


def main() -> int:
    cases = [
        ("include_graph.py", {"kvstore/a.cc": '#include "kernels/args.h"\n'}, 0),
        ("include_graph.py", {"kvstore/a.cc": '#include "runtime/engine/engine.h"\n'}, 1),
        ("include_graph.py", {"runtime/text/a.cc": '#include "runtime/model/model_config.h"\n'}, 1),
        ("include_graph.py", {"runtime/engine/a.cc": '#include "spotd/v1/sessions.pb.h"\n'}, 1),
        ("include_graph.py", {"kernels/cpu/a.cc": '#include "kernels/ref/ref_backend.h"\n'}, 1),
        ("include_graph.py", {"kernels/a.cc": '#include "a.h"\n'}, 1),
        ("size_budget.py", {"kernels/a.cc": "\n" * 500}, 0),
        ("size_budget.py", {"kernels/a.cc": "\n" * 501}, 1),
        ("size_budget.py", {"clients/python/venv/lib/a.py": "\n" * 501, "quality-venv/a.py": "\n" * 501}, 0),
        ("pages.py", {"a.md": "# It is\n[b](docs/b.md#two-words), [c](#it-is)\n", "docs/b.md": "## Two words\n"}, 0),
        ("pages.py", {"a.md": "[b](b.md)\n"}, 1),
        ("pages.py", {"quality-venv/a.md": "[b](b.md)\n"}, 0),
        ("pages.py", {"a.md": "[b](b.md#two)\n", "b.md": "## Two words\n"}, 1),
        ("pages.py", {"a.md": "    spotd --model M \\\n        --threads 2\n"}, 0),
        ("pages.py", {"a.md": "    spotd --model M \\  # of yours\n        --threads 2\n"}, 1),
    ]
    failed = [(s, f) for s, f, want in cases if run(s, f) != want]
    print(f"{len(cases) - len(failed)} of {len(cases)} lint cases behave", failed or "")
    if not the_map_is_right():
        print("docs/architecture.md does not say what include_graph.py allows")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
