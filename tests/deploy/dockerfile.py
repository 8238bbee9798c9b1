"""Reads a Dockerfile of the plain kind that deploy/images has, and carries it out in directories instead of containers.

Knows FROM, ARG, ENV, WORKDIR, COPY (also --from), RUN, USER, ENTRYPOINT and HEALTHCHECK CMD; LABEL, EXPOSE and STOPSIGNAL
change no files. Anything else is an error, so that a step cannot be left out unseen.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from typing import NamedTuple


class Step(NamedTuple):
    word: str
    rest: str


class Stage:
    """A root directory and the settings that its steps made."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.directory = "/"
        self.arguments = {}
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.user = "0:0"
        self.entrypoint = []
        self.health_command = []


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


class Builder:
    """Carries out a Dockerfile. `make_base` fills an empty directory with what FROM names."""

    def __init__(self, source: pathlib.Path, work: pathlib.Path, make_base, arguments: dict, extra_environment: dict):
        self._source, self._work, self._make_base = source, work, make_base
        self._given, self._extra_environment = arguments, extra_environment
        self._global_arguments = {}
        self._stages = {}
        self._stage = None

    def build(self, text: str) -> Stage:
        for step in parse(text):
            handler = getattr(self, "_" + step.word.lower(), None)
            if handler is None:
                raise ValueError(f"unknown instruction {step.word}")
            print(f"--> {step.word} {step.rest}", flush=True)
            handler(step.rest)
        return self._stage

    def run_in(self, stage: Stage, command: list, **options):
        """subprocess.Popen of a command inside a stage's root, as its user and with its environment."""
        environment = dict(stage.environment, **options.pop("environment", {}))
        wrapped = ["chroot", f"--userspec={stage.user}", str(stage.root), "/usr/bin/env", "-C", stage.directory, *command]
        return subprocess.Popen(wrapped, env=environment, **options)

    def _expand(self, text: str) -> str:
        known = self._stage.arguments | self._stage.environment if self._stage else self._global_arguments
        return re.sub(r"\$\{(\w+)\}", lambda found: known[found.group(1)], text)

    def _from(self, rest):
        image, _, name = re.fullmatch(r"(\S+)( AS (\S+))?", rest).groups()
        self._stage = None
        self._expand(image)  # an argument that no ARG declares is an error
        root = self._work / (name or "final")
        shutil.rmtree(root, ignore_errors=True)
        self._make_base(root)
        self._stage = Stage(root)
        self._stages[name or "final"] = self._stage

    def _arg(self, rest):
        name, _, default = rest.partition("=")
        into = self._stage.arguments if self._stage else self._global_arguments
        into[name] = self._given.get(name, default)

    def _env(self, rest):
        self._stage.environment.update(word.split("=", 1) for word in rest.split())

    def _workdir(self, rest):
        self._stage.directory = rest
        (self._stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _copy(self, rest):
        words = rest.split()
        stage = self._stages[words.pop(0).partition("=")[2]] if words[0].startswith("--from=") else None
        source, target = words
        destination = self._stage.root / os.path.normpath(os.path.join(self._stage.directory, target)).lstrip("/")
        if stage is not None:
            shutil.copytree(stage.root / source.strip("/"), destination, dirs_exist_ok=True, symlinks=True)
            return
        for name in context_files(self._source):
            if source == ".":
                to = destination / name
            elif name == source:
                to = destination
            elif name.startswith(source.rstrip("/") + "/"):
                to = destination / name[len(source.rstrip("/")) + 1:]
            else:
                continue
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self._source / name, to)

    def _run(self, rest):
        proc = self._stage.root / "proc"
        subprocess.run(["mount", "-t", "proc", "proc", proc], check=True)
        try:
            command = ["/bin/sh", "-ec", self._expand(rest)]
            environment = self._extra_environment | self._stage.arguments
            if self.run_in(self._stage, command, environment=environment).wait() != 0:
                raise RuntimeError(f"RUN {rest} failed")
        finally:
            subprocess.run(["umount", proc], check=True)

    def _user(self, rest):
        self._stage.user = rest

    def _entrypoint(self, rest):
        self._stage.entrypoint = json.loads(rest)

    def _healthcheck(self, rest):
        self._stage.health_command = json.loads(rest.partition(" CMD ")[2])

    def _label(self, rest):
        pass

    _expose = _stopsignal = _label


def scratch_directory() -> pathlib.Path:
    return pathlib.Path(tempfile.mkdtemp(prefix="spotd_image_"))
