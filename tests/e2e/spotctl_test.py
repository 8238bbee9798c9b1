#!/usr/bin/env python3
"""spotctl against a real server: every command, both kinds of output, and the exit codes."""
import json
import pathlib
import signal
import subprocess
import unittest

from spotd_process import BIN, TINY_FLAGS, Spotd, spotctl, temporary_directory, tiny_model


class SpotctlTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.spotd = Spotd(tiny_model(cls.directory.name), *TINY_FLAGS).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.spotd.__exit__()
        cls.directory.cleanup()

    def run_ok(self, *arguments, stdin=""):
        result = spotctl(self.spotd.address, *arguments, stdin=stdin)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def run_json(self, *arguments, stdin=""):
        """The objects that --json prints, one a line."""
        lines = self.run_ok(*arguments, "--json", stdin=stdin).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def new_session(self):
        return self.run_ok("sessions", "create").stdout.strip()

    def test_health(self):
        self.assertEqual(self.run_ok("health").stdout, "SERVING\n")
        self.assertEqual(self.run_json("health", "spotd.v1.InferenceService"), [{"status": "SERVING"}])

    def test_models(self):
        self.assertIn("models/qwen3", self.run_ok("models").stdout)
        model = self.run_json("models")[0]
        self.assertEqual(model["name"], "models/qwen3")
        self.assertEqual(model["context_length"], 512)

    def test_tokenize_and_back(self):
        ids = self.run_json("tokenize", "hello world")[0]["ids"]
        self.assertEqual(self.run_ok("tokenize", "hello world").stdout.split(), [str(i) for i in ids])
        self.assertEqual(self.run_ok("detokenize", *map(str, ids)).stdout, "hello world\n")

    def test_sessions(self):
        session = self.run_ok("sessions", "create", "--title", "mine", "--policy", "window").stdout.strip()
        self.assertTrue(session.startswith("sessions/"))
        self.assertIn("mine", self.run_ok("sessions", "list").stdout)
        shown = self.run_json("sessions", "show", session)[0]
        self.assertEqual((shown["display_name"], shown["policy"]["kind"]), ("mine", "POLICY_KIND_WINDOW"))
        self.run_ok("append", session, "--text", "some words to keep")
        short_name = session.split("/")[1]
        tokens = self.run_json("sessions", "show", short_name)[0]["token_count"]
        fork = self.run_ok("sessions", "fork", session).stdout.strip()
        self.assertEqual(self.run_json("sessions", "show", fork)[0]["token_count"], tokens)
        self.assertEqual(self.run_json("sessions", "rewind", fork, "3")[0]["token_count"], 3)
        self.assertEqual(self.run_json("sessions", "show", session)[0]["token_count"], tokens)
        self.run_ok("sessions", "delete", session, fork)
        names = [s["name"] for s in self.run_json("sessions", "list")]
        self.assertNotIn(session, names)

    def test_append_a_file_with_progress(self):
        document = pathlib.Path(self.directory.name) / "document.txt"
        document.write_text("A line of text. " * 20)
        session = self.new_session()
        result = self.run_ok("append", session, "--file", str(document))
        self.assertEqual(result.stdout, "")
        self.assertIn("100 %", result.stderr)
        self.assertRegex(result.stderr, r"appended \d+ tokens")
        events = self.run_json("append", session, "--file", "-", stdin="from standard input")
        self.assertIn("result", events[-1])

    def test_generate_streams_and_accounts(self):
        session = self.new_session()
        self.run_ok("append", session, "--text", "word " * 60)
        result = self.run_ok("generate", session, "--text", "go", "--max-tokens", "8", "--ignore-eos",
                             "--top-blocks", "3", "--policy", "quest", "--fraction", "0.5")
        self.assertTrue(result.stdout.strip())
        for part in ("8 tokens", "the first after", "tokens/s", "density", "from the session"):
            self.assertIn(part, result.stderr)
        events = self.run_json("generate", session, "--max-tokens", "3", "--ignore-eos")
        self.assertEqual(events[-1]["result"]["usage"]["generated_tokens"], 3)
        self.assertEqual(sum(len(e["delta"]["token_ids"]) for e in events if "delta" in e), 3)

    def test_complete_is_generate_without_a_session(self):
        flags = ["--message", "hi", "--max-tokens", "6", "--ignore-eos", "--seed", "4", "--temperature", "1"]
        completion = self.run_json("complete", *flags)[0]["completion"]
        events = self.run_json("generate", *flags)
        self.assertEqual(completion["text"], "".join(e["delta"]["text"] for e in events if "delta" in e))

    def test_a_seed_that_was_reported_can_be_given(self):
        result = self.run_json("complete", "--text", "abc", "--max-tokens", "1", "--seed", str(2**64 - 1))[0]["result"]
        self.assertEqual(result["seed"], str(2**64 - 1))

    def test_chat(self):
        events = self.run_json("chat", "--max-tokens", "4", "--ignore-eos", "--system", "be brief",
                               stdin="hello\nand again\n")
        results = [e["result"] for e in events if "result" in e]
        self.assertEqual(len(results), 2)
        self.assertGreater(results[1]["usage"]["session_tokens"], 0, "the second turn continues the first")

    def test_chat_drops_its_session_on_interrupt(self):
        def sessions():
            return {session["name"] for session in self.run_json("sessions", "list")}

        def interrupted_chat(*flags):
            chat = subprocess.Popen([str(BIN / "spotctl"), "--address", self.spotd.address, "chat", "--json",
                                     "--max-tokens", "2", "--ignore-eos", *flags], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, text=True)
            chat.stdin.write("hello\n")
            chat.stdin.flush()
            while "result" not in json.loads(chat.stdout.readline()):
                pass
            new = sessions() - before
            self.assertEqual(len(new), 0 if "--session" in flags else 1)
            while chat.poll() is None:  # it may stop the answer's call, which is just ending
                chat.send_signal(signal.SIGINT)
                try:
                    chat.wait(20)
                except subprocess.TimeoutExpired:
                    pass
            self.assertEqual(chat.returncode, 130)
            chat.stdin.close()
            chat.stdout.close()
            return new

        before = sessions()
        interrupted_chat()
        self.assertEqual(sessions(), before)
        kept = interrupted_chat("--keep")
        self.assertEqual(sessions(), before | kept)
        before = sessions()
        interrupted_chat("--session", *kept)
        self.assertEqual(sessions(), before, "it was there before the chat")

    def test_chat_drops_its_session_when_told_to_end(self):
        before = self.run_json("sessions", "list")
        for end in (signal.SIGTERM, signal.SIGHUP):
            chat = subprocess.Popen([str(BIN / "spotctl"), "--address", self.spotd.address, "chat", "--json",
                                     "--max-tokens", "100000", "--ignore-eos"], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, text=True)
            chat.stdin.write("hello\n")
            chat.stdin.flush()
            while "delta" not in json.loads(chat.stdout.readline()):  # then an answer is running
                pass
            self.assertEqual(len(self.run_json("sessions", "list")), len(before) + 1)
            chat.send_signal(end)
            self.assertEqual(chat.wait(20), 128 + end)
            chat.stdin.close()
            chat.stdout.close()
            self.assertEqual(self.run_json("sessions", "list"), before)

    def test_watch(self):
        load = subprocess.Popen([str(BIN / "spotctl"), "--address", self.spotd.address, "complete", "--text", "go",
                                 "--max-tokens", "400", "--ignore-eos"], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        shown = self.run_ok("watch", "--metrics", self.spotd.http, "--interval", "0.2", "--count", "3").stdout
        load.wait(120)
        for part in ("spotd ", "qwen3", "ready", "prefill", "decode", "density", "first token", "KV"):
            self.assertEqual(shown.count(part) >= 3, True, part)
        before = [json.loads(line) for line in spotctl(self.spotd.address, "watch", "--metrics", self.spotd.http,
                  "--interval", "0.1", "--count", "2", "--json").stdout.splitlines()]
        self.assertEqual(len(before), 2)
        self.assertEqual((before[0]["state"], before[0]["requests_running"]), ("ready", 0))
        result = spotctl(self.spotd.address, "watch", "--metrics", "127.0.0.1:1", "--count", "1")
        self.assertEqual(result.returncode, 1)
        self.assertIn("nobody listens", result.stderr)

    def test_a_failed_call_gives_one_and_the_reason(self):
        result = spotctl(self.spotd.address, "sessions", "show", "nobody")
        self.assertEqual(result.returncode, 1)
        self.assertIn("NOT_FOUND", result.stderr)
        self.assertIn("SESSION_NOT_FOUND", result.stderr)
        result = spotctl(self.spotd.address, "sessions", "show", "nobody", "--json")
        self.assertEqual(result.returncode, 1)
        error = json.loads(result.stdout)["error"]
        self.assertEqual(error["details"][0]["reason"], "SESSION_NOT_FOUND")

    def test_no_server_gives_one(self):
        result = spotctl("127.0.0.1:1", "health")
        self.assertEqual(result.returncode, 1)
        self.assertIn("UNAVAILABLE", result.stderr)

    def test_usage_mistakes_give_two(self):
        for arguments in ([], ["nonsense"], ["sessions"], ["sessions", "show"], ["generate", "--max-tokens", "many",
                          "--text", "x"], ["generate", "--nonsense"], ["append", "s"], ["complete", "--policy", "best",
                          "--text", "x"], ["append", "s", "--file", "/no/such/file"],
                          ["append", "s", "--file", "/"], ["trace", "s", "--document", "/"],
                          ["detokenize", "12abc"], ["sessions", "rewind", "s", "few"],
                          ["generate", "--text", "x", "--top-blocks", "4294967297"],
                          ["generate", "--text", "x", "--seed", "-1"], ["health", "--timeout", "nan"],
                          ["health", "--timeout", "-1"]):
            result = spotctl(self.spotd.address, *arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertTrue(result.stderr or result.stdout)

    def test_help(self):
        self.assertIn("sessions list", self.run_ok("--help").stdout)
        self.assertIn("--max-tokens", self.run_ok("generate", "--help").stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
