#!/usr/bin/env python3
"""Fails when a source file includes across folders against the direction DESIGN fixes.

The table below is the whole rule: a folder may include itself and what its row names.
"""
import pathlib
import re
import sys

ALLOWED = {
    "kernels/core": [],
    "kernels/ref": ["kernels/core", "kernels"],
    "kernels/cpu": ["kernels/core", "kernels"],
    "kernels/cuda": ["kernels/core", "kernels"],
    "kernels": ["kernels/core", "kernels/ref", "kernels/cpu", "kernels/cuda"],
    "kvstore": ["kernels", "kernels/core"],
    "runtime/formats": ["kernels/core"],
    "runtime/text": ["kernels/core"],
    "runtime/model": ["runtime/formats", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "runtime/engine": ["runtime/model", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "runtime/distill": ["runtime/model", "runtime/formats", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "proto": [],
    "server": ["proto", "runtime/engine", "runtime/model", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "tools/spotctl": ["proto", "kernels/core"],
    "tools/common": ["runtime/model", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "tools/spot_bench": ["proto", "tools/common", "runtime/engine", "runtime/model", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "tools/spot_eval": ["tools/common", "runtime/model", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "tools/spot_distill": ["tools/common", "runtime/distill", "runtime/model", "runtime/text", "kvstore", "kernels", "kernels/core"],
    "clients": ["proto"],
}
# Libraries whose headers Google style puts in quotes.
LIBRARIES = {"absl", "hwy", "gtest", "gmock", "benchmark", "google", "grpcpp", "prometheus", "nlohmann"}
# Tests and benchmarks may include anything.
UNCHECKED = ("tests",)
# The host-side interface and argument structs live in kernels/ itself; a folder of backends may see these headers
# and nothing else of it.
BACKEND_MAY_SEE = {"kernels/args.h", "kernels/backend.h", "kernels/distill.h", "kernels/distill_args.h", "kernels/paged.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SOURCES = {".h", ".cc", ".cu", ".cuh"}


def folder_of(path: str) -> str:
    """The longest folder of the table that holds `path`, or its first component."""
    best = ""
    for folder in ALLOWED:
        if path.startswith(folder + "/") and len(folder) > len(best):
            best = folder
    return best or path.split("/")[0]


def is_project_path(include: str) -> bool:
    return include.split("/")[0] in {f.split("/")[0] for f in ALLOWED} | set(UNCHECKED)


def is_generated(include: str) -> bool:
    return include.endswith(".pb.h")


def violations(root: pathlib.Path):
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.suffix not in SOURCES or relative.startswith(("build/", ".")) or relative.split("/")[0] in UNCHECKED:
            continue
        source = folder_of(relative)
        for include in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if include.split("/")[0] in LIBRARIES and not is_generated(include):
                continue
            target = "proto" if is_generated(include) else folder_of(include)
            if not is_generated(include) and not is_project_path(include):
                yield f"{relative}: \"{include}\" is not a path from the project root"
            elif source not in ALLOWED:
                yield f"{relative}: folder {source} is not in the table of {__file__}"
            elif target != source and target not in ALLOWED[source]:
                yield f"{relative}: {source} may not include {target} (\"{include}\")"
            elif source.startswith("kernels/") and target == "kernels" and include not in BACKEND_MAY_SEE:
                yield f"{relative}: a backend sees {sorted(BACKEND_MAY_SEE)} only, not \"{include}\""


def main() -> int:
    root = pathlib.Path(sys.argv[1]).resolve()
    found = list(violations(root))
    print("\n".join(found) if found else "include directions hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
