#!/usr/bin/env python3
"""Options of the spotd program: --check_config, one precedence, and a reference page that is current."""
import os
import pathlib
import re
import subprocess
import unittest

from spotd_process import BIN, SOURCE, run_spotd, temporary_directory, tiny_model


def run_with(environment, *arguments):
    return subprocess.run([str(BIN / "spotd"), *arguments], capture_output=True, text=True, timeout=60, check=False,
                          env=dict(os.environ, **environment))


class ConfigTest(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory()
        self.model = tiny_model(self.directory.name)
        self.file = pathlib.Path(self.directory.name) / "spotd.yaml"

    def tearDown(self):
        self.directory.cleanup()

    def test_the_reference_page_is_current(self):
        page = run_spotd("--print_config_reference")
        self.assertEqual(page.returncode, 0)
        self.assertEqual((SOURCE / "docs/configuration.md").read_text(), page.stdout,
                         "run: spotd --print_config_reference > docs/configuration.md")

    def test_check_config_says_what_is_set_and_by_whom(self):
        self.file.write_text(f"model: {self.model}\nthreads: 3\nmax_running: 5\n")
        result = run_with({"SPOTD_CONFIG": str(self.file), "SPOTD_THREADS": "4"}, "--check_config", "--max_running=7")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.splitlines(), [f'model: "{self.model}"  # {self.file}:1: model',
                                                      'threads: "4"  # SPOTD_THREADS',
                                                      'max_running: "7"  # --max_running',
                                                      "# the configuration is good"])

    def test_check_config_refuses(self):
        self.file.write_text("model: m\nmax_running: 65\n")
        for environment, arguments, words in (
                ({"SPOTD_CONFIG": str(self.file)}, [], (f"{self.file}:2", "max_running", '"65"', "from 1 to 64")),
                ({}, ["--model=/no/such.gguf"], ("/no/such.gguf",)),
                ({}, [f"--model={self.model}", f"--selector={self.model}/config.json"], ("config.json",)),
                ({"SPOTD_MAX_RUNING": "3"}, [f"--model={self.model}"], ("SPOTD_MAX_RUNING", "SPOTD_MAX_RUNNING")),
                ({}, [f"--model={self.model}", "--policy=topk"], ("--selector",)),
                ({}, [f"--model={self.model}", "--allowed_policies=fast"], ("--allowed_policies", "fast")),
                ({}, [f"--model={self.model}", "--tls_cert=x"], ("--tls_key",))):
            result = run_with(environment, "--check_config", *arguments)
            self.assertEqual(result.returncode, 2, (arguments, result.stdout))
            self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
            for word in words:
                self.assertIn(word, result.stderr)

    def test_variables_of_our_scripts_are_not_taken_for_misspelt_options(self):
        files = [SOURCE / "tests/run", *(path for place in ("deploy", "clients", "tools/spotctl") for path in (SOURCE / place).rglob("*")
                                         if path.suffix in ("", ".md", ".yaml", ".cc", ".go") and path.is_file())]
        named = {name for path in files for name in re.findall(r"\bSPOTD_[A-Z_]+\b", path.read_text())}
        options = set(re.findall(r"(?m)^\| `(\w+)`", (SOURCE / "docs/configuration.md").read_text()))
        others = {name for name in named if name.removeprefix("SPOTD_").lower() not in options}
        self.assertLess({"SPOTD_MODEL_DIR", "SPOTD_MODEL_FILE", "SPOTD_ADDRESS", "SPOTD_TEST_MODEL"}, others)
        result = run_with(dict.fromkeys(others, "x"), "--check_config", f"--model={self.model}")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_a_readable_file_of_secrets_is_warned_of(self):
        tokens = pathlib.Path(self.directory.name) / "tokens"
        tokens.write_text("0" * 64 + " team\n")
        tokens.chmod(0o644)
        result = run_with({}, "--check_config", f"--model={self.model}", f"--auth_tokens={tokens}")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("every user of this machine may read", result.stderr)
        tokens.chmod(0o600)
        result = run_with({}, "--check_config", f"--model={self.model}", f"--auth_tokens={tokens}")
        self.assertEqual(result.stderr, "")

    @unittest.skipIf(os.path.exists("/dev/nvidiactl"), "this machine has a GPU")
    def test_a_gpu_that_is_not_there_is_said_at_start(self):
        result = run_spotd("--model", self.model, "--backend", "cuda")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr.strip().splitlines()[-1],
                         "^spotd: --backend cuda: (no NVIDIA driver is installed|this binary was built without CUDA|no usable GPU)")


if __name__ == "__main__":
    unittest.main(verbosity=2)
