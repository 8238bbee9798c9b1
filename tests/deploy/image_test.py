#!/usr/bin/env python3
"""What can be told of the image without building it: a linter accepts the Dockerfile,
the files that .dockerignore lets through are all that a build needs, and the final stage installs every library that the
programs load. Run through tests/deploy/with_tools."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import dockerfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["SPOTD_BIN"])
DOCKERFILE = SOURCE / "deploy/images/Dockerfile"


def packages(group: str) -> set:
    """A group of deploy/install-packages."""
    text = (SOURCE / "deploy/install-packages").read_text()
    return set(re.search(rf"(?ms)^{group}=\((.*?)\)$", text).group(1).split())


def with_dependencies(names: set) -> set:
    """The packages and all that they depend on, as installed here."""
    listing = subprocess.run(["dpkg-query", "-W", "-f", "${Package}|${Depends}, ${Pre-Depends}\n"], check=True, text=True,
                             capture_output=True).stdout
    depends = {}
    for line in listing.splitlines():
        package, _, wanted = line.partition("|")
        depends[package] = set(re.findall(r"(?:^|[,|] *)([a-z0-9][-+.a-z0-9]+)", wanted))
    found, todo = set(), set(names)
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= depends.get(name, set()) - found
    return found


def owners(libraries: set) -> dict:
    """{library: its package}. /lib and /usr/lib are the same folder, and packages name either."""
    spellings = {}
    for library in libraries:
        real = os.path.realpath(library)
        spellings |= {real: library, real.removeprefix("/usr"): library}
    listing = subprocess.run(["dpkg-query", "-S", *spellings], capture_output=True, text=True, check=False).stdout
    return {spellings[path]: package for package, path in re.findall(r"(?m)^([^:, ]+)[^ ]*: (/.*)$", listing)}


class ImageTest(unittest.TestCase):
    def lint(self, text: str) -> subprocess.CompletedProcess:
        hadolint = pathlib.Path(sys.executable).parent / "hadolint"
        return subprocess.run([hadolint, "-"], input=text, capture_output=True, text=True, check=False)

    def test_the_linter_accepts_it(self):
        result = self.lint(DOCKERFILE.read_text())
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertNotEqual(self.lint("FROM debian\nRUN cd /tmp && sudo ls").returncode, 0)

    def test_it_ends_as_a_user_with_a_health_check(self):
        words = {step.word: step.rest for step in dockerfile.parse(DOCKERFILE.read_text())}
        self.assertRegex(words["USER"], r"^[1-9]\d*:[1-9]\d*$")
        self.assertIn("spotctl", words["HEALTHCHECK"])
        self.assertRegex(DOCKERFILE.read_text(), r"(?m)^ARG DEBIAN=debian:12\.\d+-slim$")

    def test_the_context_holds_what_a_build_needs(self):
        """CMake configures it: each folder and each source file that the build names must be there."""
        with tempfile.TemporaryDirectory() as directory:
            for name in dockerfile.context_files(SOURCE):
                target = pathlib.Path(directory) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(SOURCE / name, target)
            self.assertFalse((pathlib.Path(directory) / "tests").exists())
            result = subprocess.run(["cmake", "--preset", "serve", "-DSPOTD_CUDA=OFF"], cwd=directory, capture_output=True,
                                    text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr[-3000:])

    def test_every_library_of_the_programs_is_installed(self):
        allowed = with_dependencies(packages("run"))
        programs = [BIN / name for name in ("spotd", "spotctl", "spot-distill", "spot-eval", "spot-bench")]
        built = [program for program in programs if program.exists()]
        self.assertIn(BIN / "spotd", built)
        loaded = {}  # library: a program that loads it
        for program in built:
            linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            # Sanitizers are for tests.
            loaded |= {library: program.name for library in re.findall(r"=> (/\S+)", linked)
                       if not re.search(r"lib(a|ub|t)san", library)}
        owner = owners(set(loaded))
        for library, program in loaded.items():
            self.assertIn(owner[library], allowed, f"{program} loads {library}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
