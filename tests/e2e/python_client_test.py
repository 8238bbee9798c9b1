#!/usr/bin/env python3
"""clients/python against a real server."""
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

from security_test import Authority, token_line
from spotd_process import SOURCE, TINY_FLAGS, Spotd, main_with_grpc, temporary_directory, tiny_model

CLIENT = SOURCE / "clients/python"


class PythonClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        stubs = pathlib.Path(cls.directory.name) / "stubs"
        subprocess.run([CLIENT / "generate_stubs", stubs], check=True, env=dict(os.environ, PYTHON=sys.executable))
        os.environ["PYTHONPATH"] = f"{stubs}:{CLIENT}"
        sys.path[:0] = [str(stubs), str(CLIENT)]
        import spotd_client
        cls.api = spotd_client
        cls.spotd = Spotd(tiny_model(cls.directory.name), *TINY_FLAGS).__enter__()
        cls.client = spotd_client.Client(cls.spotd.address, timeout=60)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.spotd.__exit__()
        cls.directory.cleanup()

    def test_a_document_and_a_question(self):
        document = pathlib.Path(self.directory.name) / "document.txt"
        document.write_text("Ein Text über Bären. " * 10)
        session = self.client.create_session("a title")
        progress = []
        result = self.client.append_file(session.name, str(document), lambda done, total: progress.append((done, total)))
        self.assertEqual(result.session_token_count, self.client.get_session(session.name).token_count)
        self.assertTrue(progress)
        events = list(self.client.generate(session.name, message="What about?", max_tokens=5, ignore_eos=True,
                                           top_blocks=2))
        usage = events[-1].result.usage
        self.assertEqual(usage.generated_tokens, 5)
        self.assertEqual(usage.prompt_tokens, usage.computed_tokens + usage.session_tokens + usage.prefix_tokens +
                         usage.restored_tokens)
        self.client.delete_session(session.name)

    def test_update(self):
        session = self.client.create_session("before")
        session.display_name = "after"
        session.ttl.FromSeconds(60)
        updated = self.client.update_session(session, ["display_name", "ttl"])
        self.assertEqual((updated.display_name, updated.ttl.seconds), ("after", 60))
        with self.assertRaises(self.api.SpotdError) as caught:
            self.client.update_session(session, ["ttl"])
        self.assertEqual(caught.exception.reason, "ETAG_MISMATCH")

    def test_tls_and_token(self):
        if shutil.which("openssl") is None:
            self.skipTest("openssl is not installed")
        path = pathlib.Path(self.directory.name)
        ca = Authority(path, "python")
        cert, key = ca.issue("localhost", 1)
        client_cert, client_key = ca.issue("team-a", 2)
        tokens = path / "tokens"
        tokens.write_text(token_line("alpha", "team-a"))
        tokens.chmod(0o600)
        with Spotd(str(path / "qwen3"), f"--tls_cert={cert}", f"--tls_key={key}", f"--tls_client_ca={ca.cert}",
                   f"--auth_tokens={tokens}", *TINY_FLAGS) as spotd:
            tls = {"tls_ca": ca.cert.read_bytes(), "tls_cert": client_cert.read_bytes(),
                   "tls_key": client_key.read_bytes()}
            with self.api.Client(spotd.address, timeout=30, token="alpha", **tls) as client:
                session = client.create_session()
                self.assertGreater(client.append_text(session.name, "over TLS").session_token_count, 0)
                events = list(client.generate(session.name, text="on", max_tokens=3, ignore_eos=True))
                self.assertEqual(events[-1].result.usage.generated_tokens, 3)
            for options, code in (({"token": "guess", **tls}, "UNAUTHENTICATED"),
                                  ({"token": "alpha", "tls_ca": tls["tls_ca"]}, "UNAVAILABLE"),
                                  ({"token": "alpha"}, "UNAVAILABLE")):
                with self.api.Client(spotd.address, timeout=60, **options) as client:
                    with self.assertRaises(self.api.SpotdError) as caught:
                        client.create_session()
                    self.assertEqual(caught.exception.code.name, code, options)

    def test_fork_and_rewind(self):
        session = self.client.create_session()
        self.client.append_text(session.name, "one two three four")
        fork = self.client.fork_session(session.name)
        self.assertEqual(self.client.rewind_session(fork.name, 2).token_count, 2)
        names = [s.name for s in self.client.list_sessions()]
        self.assertIn(session.name, names)
        self.assertIn(fork.name, names)

    def test_complete_and_generate_agree(self):
        streamed = "".join(e.text for e in self.client.generate(text="once upon", max_tokens=6, ignore_eos=True))
        completed = self.client.complete(text="once upon", max_tokens=6, ignore_eos=True)
        self.assertEqual(completed.completion.text, streamed)

    def test_tokenizer(self):
        self.assertEqual(self.client.detokenize(self.client.tokenize("Grüße 🙂")), "Grüße 🙂")
        self.assertEqual(self.client.model().name, "models/qwen3")

    def test_errors_carry_their_reason(self):
        with self.assertRaises(self.api.SpotdError) as caught:
            self.client.get_session("sessions/nobody")
        self.assertEqual(caught.exception.reason, "SESSION_NOT_FOUND")
        self.assertEqual(caught.exception.code.name, "NOT_FOUND")

    def test_leaving_a_loop_cancels_the_call(self):
        session = self.client.create_session()
        for token in self.client.generate(session.name, text="go", ignore_eos=True):
            break
        for _ in range(200):
            if self.client.get_session(session.name).state == 1:  # STATE_IDLE
                break
        self.client.delete_session(session.name)
        self.assertTrue(token)

    def test_the_example_program(self):
        document = pathlib.Path(self.directory.name) / "example.txt"
        document.write_text("Words, words, words. " * 8)
        result = subprocess.run([sys.executable, CLIENT / "example.py", document, "What is it about?", "--address",
                                 self.spotd.address, "--max-tokens", "4"], capture_output=True, text=True, timeout=60,
                                check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("density", result.stderr)
        self.assertTrue(result.stdout.strip() or "0 tokens" not in result.stderr)

    def test_the_example_program_that_fails_leaves_no_session(self):
        before = len(list(self.client.list_sessions()))
        document = pathlib.Path(self.directory.name) / "long.txt"
        document.write_text("Words, words, words. " * 1000)
        for path, word in ((document, "CONTEXT_OVERFLOW"), (document.with_name("missing.txt"), "missing.txt")):
            result = subprocess.run([sys.executable, CLIENT / "example.py", path, "What?", "--address", self.spotd.address],
                                    capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertIn(word, result.stderr)
            self.assertNotIn("Traceback", result.stderr)
        self.assertEqual(len(list(self.client.list_sessions())), before)

    def test_health_of_grpcio_agrees(self):
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        with grpc.insecure_channel(self.spotd.address) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="spotd.v1.SessionService"), timeout=10)
        self.assertEqual(reply.status, health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    main_with_grpc()
