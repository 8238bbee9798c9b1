#!/usr/bin/env python3
"""The spotd program: what it says to bad input, its HTTP pages, and how it ends."""
import json
import pathlib
import shutil
import signal
import subprocess
import unittest

from spotd_process import (BIN, SOURCE, TINY_FLAGS, Spotd, metric, parse_metrics, run_spotd, spotctl,
                           temporary_directory, tiny_model, wait_until)

MODELS = SOURCE / "tests/data/models"


class StartTest(unittest.TestCase):
    """Each refusal is one line that names the cause, and a non-zero exit code."""

    def setUp(self):
        self.directory = temporary_directory()
        self.path = pathlib.Path(self.directory.name)

    def tearDown(self):
        self.directory.cleanup()

    def expect_refusal(self, model, *words):
        result = run_spotd("--model", str(model), "--listen=127.0.0.1:0", "--http_listen=off", *TINY_FLAGS)
        self.assertEqual(result.returncode, 1, result.stderr)
        last = result.stderr.strip().splitlines()[-1]
        self.assertTrue(last.startswith("spotd: "), result.stderr)
        for word in words:
            self.assertIn(word, last)

    def test_missing_file(self):
        self.expect_refusal(self.path / "none.gguf", "none.gguf")

    def test_file_of_another_kind(self):
        other = self.path / "photo.gguf"
        other.write_bytes(b"\x89PNG\r\n" + bytes(1000))
        self.expect_refusal(other, "photo.gguf")

    def test_empty_file(self):
        empty = self.path / "empty.gguf"
        empty.write_bytes(b"")
        self.expect_refusal(empty, "empty.gguf")

    def test_directory_without_config(self):
        self.expect_refusal(self.path, "config.json")

    def test_truncated_gguf(self):
        whole = (MODELS / "qwen3.BF16.gguf").read_bytes()
        for size in (3, 100, len(whole) // 2, len(whole) - 1):
            cut = self.path / f"cut{size}.gguf"
            cut.write_bytes(whole[:size])
            self.expect_refusal(cut, cut.name)

    def test_corrupt_gguf(self):
        whole = bytearray((MODELS / "qwen3.BF16.gguf").read_bytes())
        whole[8:16] = b"\xff" * 8  # the number of tensors
        corrupt = self.path / "corrupt.gguf"
        corrupt.write_bytes(whole)
        self.expect_refusal(corrupt, "corrupt.gguf")

    def test_truncated_safetensors(self):
        model = pathlib.Path(tiny_model(self.directory.name))
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        self.expect_refusal(model, "model.safetensors")

    def test_corrupt_config(self):
        model = pathlib.Path(tiny_model(self.directory.name))
        (model / "config.json").write_text('{"model_type": "qwen3"')
        self.expect_refusal(model, "config.json")

    def test_unsupported_architecture(self):
        model = pathlib.Path(tiny_model(self.directory.name))
        config = json.loads((model / "config.json").read_text())
        config.update(model_type="mamba", architectures=["MambaForCausalLM"])
        (model / "config.json").write_text(json.dumps(config))
        self.expect_refusal(model, "amba")

    def test_missing_tensor_file(self):
        model = pathlib.Path(tiny_model(self.directory.name))
        (model / "model.safetensors").unlink()
        self.expect_refusal(model, "safetensors")

    def test_missing_tokenizer(self):
        model = pathlib.Path(tiny_model(self.directory.name))
        (model / "tokenizer.json").unlink()
        self.expect_refusal(model, "tokenizer.json")

    def test_a_selector_that_is_none(self):
        model = tiny_model(self.directory.name)
        result = run_spotd("--model", model, "--selector", f"{model}/config.json", "--http_listen=off",
                           "--listen=127.0.0.1:0", *TINY_FLAGS)
        self.assertEqual(result.returncode, 1)
        self.assertIn("config.json", result.stderr.strip().splitlines()[-1])

    def test_unknown_backend(self):
        result = run_spotd("--model", tiny_model(self.directory.name), "--backend=abacus", "--listen=127.0.0.1:0",
                           "--http_listen=off")
        self.assertEqual(result.returncode, 2)
        self.assertIn("abacus", result.stderr.strip().splitlines()[-1])

    def test_more_kv_memory_than_there_is(self):
        result = run_spotd("--model", tiny_model(self.directory.name), "--kv_memory=900TiB", "--listen=127.0.0.1:0",
                           "--http_listen=off")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--kv_memory", result.stderr.strip().splitlines()[-1])

    def test_ports_in_use(self):
        model = tiny_model(self.directory.name)
        with Spotd(model, *TINY_FLAGS) as spotd:
            for flags in ([f"--listen={spotd.address}", "--http_listen=off"],
                          ["--listen=127.0.0.1:0", f"--http_listen={spotd.http}"]):
                result = run_spotd("--model", model, *flags, *TINY_FLAGS)
                self.assertEqual(result.returncode, 1)
                taken = spotd.address if "off" in flags[1] else spotd.http
                self.assertIn(taken, result.stderr.strip().splitlines()[-1])
            self.assertEqual(spotctl(spotd.address, "health").returncode, 0)

    def test_usage(self):
        for arguments, word in (([], "--model"), (["--polcy=full"], "--policy"), (["--model=m", "--policy=x"], "quest"),
                                (["--model=m", "--policy=topk"], "--selector"),
                                (["--model=m", "--fraction=7"], "fraction")):
            result = run_spotd(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertEqual(len(result.stderr.strip().splitlines()), 1)
            self.assertIn(word, result.stderr)

    def test_help_and_version(self):
        result = run_spotd("--help")
        self.assertEqual(result.returncode, 0)
        self.assertIn("--kv_memory", result.stdout)
        result = run_spotd("--version")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stdout, r"^spotd \d+\.\d+\.\d+\n$")


class ServingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.spotd = Spotd(tiny_model(cls.directory.name, 8192), *TINY_FLAGS).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.spotd.__exit__()
        cls.directory.cleanup()

    def test_health_pages(self):
        for path in ("/livez", "/readyz", "/healthz"):
            self.assertEqual(self.spotd.get(path), (200, "ok\n"))
        self.assertEqual(self.spotd.get("/nothing")[0], 404)

    def test_metrics_add_up_with_the_replies(self):
        def scrape():
            status, page = self.spotd.get("/metrics")
            self.assertEqual(status, 200)
            return parse_metrics(page)

        before = scrape()
        session = spotctl(self.spotd.address, "sessions", "create").stdout.strip()
        append = spotctl(self.spotd.address, "append", session, "--text", "a b c " * 50, "--json")
        appended = json.loads(append.stdout.splitlines()[-1])["result"]["appended_tokens"]
        results = []
        for policy in ("full", "quest", "window"):
            reply = spotctl(self.spotd.address, "generate", session, "--text", "more", "--max-tokens", "9",
                            "--ignore-eos", "--policy", policy, "--json")
            results.append(json.loads(reply.stdout.splitlines()[-1])["result"])
        after = scrape()

        def grown(name, **labels):
            return metric(after, name, **labels) - metric(before, name, **labels)

        computed = sum(r["usage"]["computed_tokens"] for r in results)
        from_session = sum(r["usage"]["session_tokens"] for r in results)
        for result in results:
            usage = result["usage"]
            self.assertEqual(usage["prompt_tokens"], usage["computed_tokens"] + usage["session_tokens"])
            self.assertEqual(usage["generated_tokens"], 9)
        # An append leaves its newest token to the generation that follows.
        self.assertEqual(grown("spotd_prompt_tokens_total", source="computed"), computed + appended - 1)
        self.assertEqual(grown("spotd_prompt_tokens_total", source="session"), from_session)
        self.assertEqual(grown("spotd_generation_tokens_total"), 27)
        self.assertEqual(grown("spotd_requests_total", method="Generate", code="OK"), 3)
        self.assertEqual(grown("spotd_time_to_first_token_seconds_count"), 3)
        for result, policy in zip(results, ("full", "quest", "window")):
            sparsity = result["sparsity"]
            for name, field in (("spotd_kv_blocks_attended_total", "blocks_attended"),
                                ("spotd_kv_blocks_visible_total", "blocks_visible"),
                                ("spotd_kv_bytes_read_total", "kv_bytes_read"),
                                ("spotd_kv_bytes_dense_equivalent_total", "kv_bytes_dense_equivalent")):
                self.assertEqual(grown(name, policy=policy), int(sparsity[field]), name)
            self.assertEqual(grown("spotd_request_attended_fraction_count", policy=policy), 1)
        spotctl(self.spotd.address, "sessions", "delete", session)

    def test_promtool_accepts_the_page(self):
        promtool = shutil.which("promtool")
        if promtool is None:
            self.skipTest("promtool is not installed")
        _, page = self.spotd.get("/metrics")
        result = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_nothing_of_the_prompt_is_logged(self):
        spotctl(self.spotd.address, "complete", "--text", "SECRETWORD here", "--max-tokens", "2")
        wait_until(lambda: any('"method":"Complete"' in line for line in self.spotd.log), "the call is not logged")
        self.assertFalse([line for line in self.spotd.log if "SECRETWORD" in line])


class EndTest(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory()
        self.model = tiny_model(self.directory.name, 65536)

    def tearDown(self):
        self.directory.cleanup()

    def generate(self, spotd, tokens):
        command = [str(BIN / "spotctl"), "--address", spotd.address, "generate", "--text", "go", "--max-tokens",
                   str(tokens), "--ignore-eos", "--json"]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.assertTrue(client.stdout.readline())
        return client

    def test_sigterm_lets_running_calls_end(self):
        with Spotd(self.model, *TINY_FLAGS) as spotd:
            client = self.generate(spotd, 1500)
            spotd.process.send_signal(signal.SIGTERM)
            output, _ = client.communicate(timeout=60)
            self.assertEqual(client.returncode, 0)
            result = json.loads(output.splitlines()[-1])["result"]
            self.assertEqual(result["usage"]["generated_tokens"], 1500)
            self.assertEqual(spotd.process.wait(60), 0)

    def test_the_drain_timeout_is_kept(self):
        with Spotd(self.model, "--drain_timeout=200ms", *TINY_FLAGS) as spotd:
            client = self.generate(spotd, 60000)
            spotd.process.send_signal(signal.SIGTERM)
            self.assertEqual(spotd.process.wait(60), 0)
            client.communicate(timeout=60)
            self.assertEqual(client.returncode, 1)

    def test_a_second_signal_ends_at_once(self):
        with Spotd(self.model, *TINY_FLAGS) as spotd:
            client = self.generate(spotd, 60000)
            spotd.process.send_signal(signal.SIGTERM)
            wait_until(lambda: spotd.get("/readyz")[0] == 503, "it does not drain")
            self.assertEqual(spotd.get("/livez")[0], 200)
            spotd.process.send_signal(signal.SIGINT)
            self.assertEqual(spotd.process.wait(60), 1)
            client.kill()
            client.communicate()

    def test_sigkilled_client_stops_its_generation(self):
        with Spotd(self.model, *TINY_FLAGS) as spotd:
            client = self.generate(spotd, 60000)
            client.kill()
            client.communicate()
            wait_until(lambda: metric(parse_metrics(spotd.get("/metrics")[1]), "spotd_requests_running") == 0,
                       "it still runs")


if __name__ == "__main__":
    unittest.main(verbosity=2)
