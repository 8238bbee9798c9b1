#!/usr/bin/env python3
"""spotctl trace against a real server: on a terminal, as JSON, and as a page in a real browser."""
import json
import pathlib
import re
import shutil
import subprocess
import unittest

from spotd_process import TINY_FLAGS, Spotd, spotctl, temporary_directory, tiny_model

DOCUMENT = "The lamp of the lighthouse burns all night. " * 40
TOKENS = 12


class TraceTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.path = pathlib.Path(cls.directory.name)
        flags = ["--k_min_tokens=64", "--sink_tokens=16", "--recency_tokens=32", "--policy=quest", "--fraction=0.2"]
        cls.spotd = Spotd(tiny_model(cls.directory.name, 8192), *flags, *TINY_FLAGS).__enter__()
        (cls.path / "document.txt").write_text(DOCUMENT)
        cls.session = cls.run_ok("sessions", "create").stdout.strip()
        cls.run_ok("append", cls.session, "--file", str(cls.path / "document.txt"))
        cls.run_ok("generate", cls.session, "--text", " And then", "--max-tokens", str(TOKENS), "--ignore-eos",
                   "--record-trace")

    @classmethod
    def tearDownClass(cls):
        cls.spotd.__exit__()
        cls.directory.cleanup()

    @classmethod
    def run_ok(cls, *arguments):
        result = spotctl(cls.spotd.address, *arguments)
        assert result.returncode == 0, result.stderr
        return result

    def test_json(self):
        lines = [json.loads(line) for line in self.run_ok("trace", self.session, "--json").stdout.splitlines()]
        header, steps = lines[0]["header"], [line["step"] for line in lines[1:]]
        self.assertEqual((header["step_count"], len(steps), header["layer_count"]), (TOKENS, TOKENS, 2))
        positions = [step["position"] for step in steps]
        self.assertEqual(positions, list(range(positions[0], positions[0] + TOKENS)))
        for step in steps:
            self.assertEqual(len(step["layers"]), 2)
            blocks = sum(step["layers"][0]["block_counts"])
            self.assertLess(blocks * header["block_token_count"], step["position"], "sparse")
            self.assertEqual(step["layers"][0]["first_blocks"][0], 0, "the sinks")

    def test_terminal(self):
        view = self.run_ok("trace", self.session, "--document", str(self.path / "document.txt")).stdout
        rows = [line for line in view.splitlines() if re.search("[·░▒▓█]{20}", line)]
        self.assertEqual(len(rows), TOKENS + 1)
        self.assertIn("all tokens", view)
        self.assertRegex(view, r"\d+ %  tokens \d+-\d+  .*(lamp|light|night|burns)")

    def test_a_session_without_a_trace(self):
        other = self.run_ok("sessions", "create").stdout.strip()
        result = spotctl(self.spotd.address, "trace", other)
        self.assertEqual(result.returncode, 1)
        self.assertIn("TRACE_NOT_FOUND", result.stderr)

    def test_a_full_disk(self):
        result = spotctl(self.spotd.address, "trace", self.session, "--html", "/dev/full")
        self.assertEqual(result.returncode, 2)
        self.assertIn("cannot write /dev/full", result.stderr)

    def test_page_in_a_browser(self):
        page = self.path / "trace.html"
        self.run_ok("trace", self.session, "--document", str(self.path / "document.txt"), "--html", str(page), "--title",
                    "A <night>")
        chromium = shutil.which("chromium")
        if chromium is None:
            self.skipTest("chromium is not installed; deploy/install-packages test installs it")
        dom = subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={self.path}/browser",
                              "--dump-dom", f"file://{page}#token=3"], capture_output=True, text=True, timeout=120,
                             check=True).stdout
        self.assertIn(f'data-ready="{TOKENS}"', dom, "the script ran to its end")
        self.assertIn("A &lt;night&gt;", dom)
        self.assertIn(f"(token 4 of {TOKENS}) read", dom)
        self.assertEqual(dom.count('class="chosen"'), 1)
        self.assertGreater(dom.count("background: rgb("), 3, "parts of the document are shaded")
        self.assertIn("lighthouse", dom)


if __name__ == "__main__":
    unittest.main(verbosity=2)
