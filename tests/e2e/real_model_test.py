#!/usr/bin/env python3
"""The main job with the real model: a document in a session, questions about it, true answers. Needs SPOTD_TEST_MODEL."""
import json
import os
import pathlib
import unittest

from spotd_process import Spotd, skip, spotctl, temporary_directory

DOCUMENT = ("The lighthouse of Varnholm was built in 1871 by the engineer Ingrid Solberg. "
            "It stands on a rock north of the harbour. ") + "The sea was calm and the gulls were loud. " * 120


class RealModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.spotd = Spotd(os.environ["SPOTD_TEST_MODEL"], "--kv_memory=512MiB").__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.spotd.__exit__()
        cls.directory.cleanup()

    def ask(self, *arguments):
        result = spotctl(self.spotd.address, *arguments, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        events = [json.loads(line) for line in result.stdout.splitlines()]
        return "".join(e["delta"]["text"] for e in events if "delta" in e), events[-1]["result"]

    def test_answers_and_stops(self):
        text, result = self.ask("generate", "--message", "Name the planet we live on.", "--max-tokens", "48")
        self.assertIn("Earth", text)
        self.assertEqual(result["finish_reason"], "FINISH_REASON_STOP_TOKEN")

    def test_answers_from_a_document(self):
        document = pathlib.Path(self.directory.name) / "document.txt"
        document.write_text(DOCUMENT)
        session = spotctl(self.spotd.address, "sessions", "create").stdout.strip()
        appended = spotctl(self.spotd.address, "append", session, "--file", str(document), "--role", "user")
        self.assertEqual(appended.returncode, 0, appended.stderr)
        text, result = self.ask("generate", session, "--policy", "full", "--max-tokens", "32", "--message",
                                "Who built the lighthouse of Varnholm?")
        self.assertIn("Solberg", text)
        usage = result["usage"]
        self.assertEqual(usage["prompt_tokens"], usage["computed_tokens"] + usage["session_tokens"])
        self.assertGreater(usage["session_tokens"], 1000)


if __name__ == "__main__":
    if not os.environ.get("SPOTD_TEST_MODEL"):
        skip("set SPOTD_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf (deploy/fetch-model prints where it is)")
    unittest.main(verbosity=2)
