"""Reads a Dockerfile, and says which files docker would send to it."""
import pathlib
import re
import subprocess
from typing import NamedTuple


class Step(NamedTuple):
    word: str
    rest: str


def parse(text: str) -> list:
    """The steps of a Dockerfile, continuation lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    steps = []
    for line in joined.splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            steps.append(Step(word.upper(), rest.strip()))
    return steps


def ignored(path: str, rules: list) -> bool:
    """Whether .dockerignore's `rules` keep `path` out. The last rule that matches the path or a folder above it counts."""
    result = False
    for rule in rules:
        pattern = rule.lstrip("!").rstrip("/")
        if pattern == "*" or path == pattern or path.startswith(pattern + "/"):
            result = not rule.startswith("!")
    return result


def context_files(source: pathlib.Path) -> list:
    """What `docker build` would send: tracked files that .dockerignore lets through."""
    lines = (source / ".dockerignore").read_text().splitlines()
    rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=source, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in tracked if name and not ignored(name, rules) and (source / name).is_file()]
