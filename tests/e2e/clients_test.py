#!/usr/bin/env python3
"""The C++ and Go examples of clients/ against a real server, in plaintext and over TLS with a token."""
import hashlib
import os
import pathlib
import shutil
import subprocess
import unittest

from spotd_process import BIN, SOURCE, TINY_FLAGS, Spotd, spotctl, temporary_directory, tiny_model

GOCODE = "/usr/share/gocode"  # where Debian keeps Go packages


def go_is_missing() -> str:
    """What the Go example needs and this machine lacks; empty when it has everything."""
    for program in ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"):
        if shutil.which(program) is None:
            return program
    package = pathlib.Path(GOCODE, "src/google.golang.org/grpc")
    return "" if package.is_dir() else str(package)


class ClientsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.path = pathlib.Path(cls.directory.name)
        cls.model = tiny_model(cls.directory.name)
        cls.document = cls.path / "document.txt"
        cls.document.write_text("Ein Text über Bären. " * 10)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-keyout", cls.path / "tls.key", "-out", cls.path / "tls.pem"], check=True, capture_output=True)
        (cls.path / "tokens").write_text(hashlib.sha256(b"alpha").hexdigest() + " team-a\n")

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def run_example(self, command, *options, token="", document=None):
        return subprocess.run([*command, *options, document or self.document, "What about?"], capture_output=True, text=True,
                              timeout=60, check=False, env=dict(os.environ, SPOTD_TOKEN=token))

    def check(self, command, dashes):
        """`dashes` is how the program writes a long option."""
        def option(name, value):
            return [f"{dashes}{name}", str(value)]

        with Spotd(self.model, *TINY_FLAGS) as spotd:
            address = option("address", spotd.address)
            result = self.run_example(command, *address, *option("max-tokens", 5))
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertRegex(result.stderr, r"[1-5] tokens; context \d+ tokens, \d+ of them from the session; density")
            self.check_failures(command, address, option("tls-ca", self.path / "missing"))
            self.assertEqual(spotctl(spotd.address, "sessions", "list", "--json").stdout, "", "a session was left behind")
        secure = [f"--tls_cert={self.path}/tls.pem", f"--tls_key={self.path}/tls.key",
                  f"--auth_tokens={self.path}/tokens"]
        with Spotd(self.model, *secure, *TINY_FLAGS) as spotd:
            tls = [*option("address", spotd.address), *option("tls-ca", self.path / "tls.pem"), *option("max-tokens", 2)]
            result = self.run_example(command, *tls, token="alpha")
            self.assertEqual(result.returncode, 0, result.stderr)
            result = self.run_example(command, *tls, token="guess")
            self.assertEqual(result.returncode, 1)
            self.assertIn("TOKEN_INVALID", result.stderr)

    def check_failures(self, command, address, missing_authorities):
        """Each ends with exit code 1 and says what it could not read or do."""
        long = self.path / "long.txt"
        long.write_text("Words, words, words. " * 1000)
        for options, document, word in ((address, long, "CONTEXT_OVERFLOW"), (address, self.path / "no-document", "no-document"),
                                        ([*address, *missing_authorities], self.document, "missing")):
            result = self.run_example(command, *options, document=document)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertIn(word, result.stderr)

    def test_cpp(self):
        self.check([BIN / "spotd-example"], "--")

    def test_go(self):
        missing = go_is_missing()
        if missing:
            self.skipTest(f"{missing} is not installed; deploy/install-packages test installs it")
        subprocess.run([SOURCE / "clients/go/generate_stubs", self.path / "go"], check=True)
        cache = os.environ.get("GOCACHE", str(pathlib.Path.home() / ".cache/go-build"))
        environment = dict(os.environ, GO111MODULE="off", GOPATH=f"{self.path}/go:{GOCODE}", GOCACHE=cache)
        subprocess.run(["go", "vet", "example.go"], cwd=SOURCE / "clients/go", check=True, env=environment)
        subprocess.run(["go", "build", "-o", self.path / "example", "example.go"], cwd=SOURCE / "clients/go", check=True,
                       env=environment)
        self.check([self.path / "example"], "-")


if __name__ == "__main__":
    unittest.main(verbosity=2)
