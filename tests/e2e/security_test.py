#!/usr/bin/env python3
"""TLS, client certificates, tokens, what is reloaded, and what never reaches log or metrics; docs/security.md."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import time
import unittest

from spotd_process import (BIN, TINY_FLAGS, Spotd, metric, parse_metrics, skip, temporary_directory, tiny_model,
                           wait_until)

CANARY = "xyzzy-canary-31337"


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority that signs what the tests need."""

    def __init__(self, directory: pathlib.Path, name: str):
        self.directory, self.name = directory, name
        self.key, self.cert = directory / f"{name}.key", directory / f"{name}.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert)

    def issue(self, common_name: str, serial: int, days: int = 2):
        """(certificate, key) for 127.0.0.1 and localhost."""
        base = self.directory / f"{self.name}-{common_name}-{serial}"
        key, request, cert = (base.with_suffix(end) for end in (".key", ".csr", ".pem"))
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={common_name}",
                "-keyout", key, "-out", request)
        extensions = base.with_suffix(".ext")
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-set_serial", serial, "-days",
                days, "-extfile", extensions, "-out", cert)
        return cert, key


def ctl(address, *arguments, token="", **files):
    """spotctl with TLS files (ca, cert, key) and a token."""
    environment = dict(os.environ, SPOTD_ADDRESS=address, SPOTD_TOKEN=token)
    for name, variable in (("ca", "SPOTD_TLS_CA"), ("cert", "SPOTD_TLS_CLIENT_CERT"), ("key", "SPOTD_TLS_CLIENT_KEY")):
        environment[variable] = str(files.get(name, ""))
    return subprocess.run([str(BIN / "spotctl"), "--timeout", "60", *arguments], capture_output=True, text=True,
                          timeout=120, env=environment, check=False)


def token_line(token, tenant):
    return f"{hashlib.sha256(token.encode()).hexdigest()} {tenant}\n"


class SecurityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.path = pathlib.Path(cls.directory.name)
        cls.model = tiny_model(cls.directory.name)
        cls.ca = Authority(cls.path, "ours")
        cls.stranger = Authority(cls.path, "stranger")

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def install(self, pair, name):
        """Puts a certificate and its key where a server watches them, key first, each file at once."""
        paths = []
        for source, end in zip(reversed(pair), (".key", ".pem")):
            new = self.path / f"{name}{end}.new"
            shutil.copy(source, new)
            os.replace(new, self.path / f"{name}{end}")
            paths.append(self.path / f"{name}{end}")
        return paths[1], paths[0]

    def serve(self, *flags):
        return Spotd(self.model, "--reload_interval=1s", *TINY_FLAGS, *map(str, flags))

    def tls_flags(self, name):
        cert, key = self.install(self.ca.issue("localhost", 1), name)
        return [f"--tls_cert={cert}", f"--tls_key={key}"]

    def assert_refused(self, result, *words):
        self.assertEqual(result.returncode, 1, result.stdout)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_eavesdropper_tls_only(self):
        with self.serve(*self.tls_flags("plain")) as spotd:
            self.assertEqual(ctl(spotd.address, "models", ca=self.ca.cert).returncode, 0)
            self.assert_refused(ctl(spotd.address, "models"), "UNAVAILABLE")
            # A client that trusts somebody else does not talk to us.
            self.assert_refused(ctl(spotd.address, "models", ca=self.stranger.cert), "UNAVAILABLE")
            old = subprocess.run(["openssl", "s_client", "-connect", spotd.address, "-tls1_1"], input="",
                                 capture_output=True, text=True, timeout=60, check=False)
            self.assertNotEqual(old.returncode, 0, "TLS 1.1 is too old")

    def test_stranger_without_a_client_certificate(self):
        with self.serve(*self.tls_flags("mutual"), f"--tls_client_ca={self.ca.cert}") as spotd:
            cert, key = self.ca.issue("team-a", 2)
            good = {"ca": self.ca.cert, "cert": cert, "key": key}
            self.assertEqual(ctl(spotd.address, "models", **good).returncode, 0)
            self.assert_refused(ctl(spotd.address, "models", ca=self.ca.cert), "UNAVAILABLE")
            other_cert, other_key = self.stranger.issue("team-a", 3)
            self.assert_refused(ctl(spotd.address, "models", ca=self.ca.cert, cert=other_cert, key=other_key),
                                "UNAVAILABLE")
            odd_cert, odd_key = self.ca.issue("not a tenant", 4)
            self.assert_refused(ctl(spotd.address, "models", ca=self.ca.cert, cert=odd_cert, key=odd_key),
                                "UNAUTHENTICATED", "CERTIFICATE_UNUSABLE")
            # The tenant is the certificate's common name: another one does not see the session.
            session = ctl(spotd.address, "sessions", "create", **good).stdout.strip()
            other = self.ca.issue("team-b", 5)
            shown = ctl(spotd.address, "sessions", "show", session, ca=self.ca.cert, cert=other[0], key=other[1])
            self.assert_refused(shown, "SESSION_NOT_FOUND")
            self.assertEqual(ctl(spotd.address, "sessions", "show", session, **good).returncode, 0)

    def test_certificates_are_reloaded(self):
        with self.serve(*self.tls_flags("reload")) as spotd:
            self.assertEqual(ctl(spotd.address, "models", ca=self.ca.cert).returncode, 0)
            self.install(self.stranger.issue("localhost", 6), "reload")
            wait_until(lambda: ctl(spotd.address, "models", ca=self.stranger.cert).returncode == 0,
                       "the new certificate is not in use")
            # Files that do not parse or do not fit each other change nothing, and are complained of once.
            complaint = "the certificates were not reloaded"
            for broken in ("no certificate", self.ca.issue("localhost", 10)[0].read_text()):
                before = sum(complaint in line for line in spotd.log)
                (self.path / "reload.new").write_text(broken)
                os.replace(self.path / "reload.new", self.path / "reload.pem")
                wait_until(lambda: sum(complaint in line for line in spotd.log) > before, "no complaint in the log")
                time.sleep(2.5)
                self.assertEqual(sum(complaint in line for line in spotd.log), before + 1)
                self.assertEqual(ctl(spotd.address, "models", ca=self.stranger.cert).returncode, 0,
                                 "the old certificate serves on")
            self.install(self.ca.issue("localhost", 9), "reload")
            wait_until(lambda: ctl(spotd.address, "models", ca=self.ca.cert).returncode == 0,
                       "the server does not recover from a bad certificate")

    def test_bad_files_are_refused_at_start(self):
        flags = self.tls_flags("bad")
        _, other_key = self.ca.issue("localhost", 7)
        expired = self.ca.issue("localhost", 8, days=-1)
        for arguments, word in (([flags[0], f"--tls_key={other_key}"], "is not the key of"),
                                ([f"--tls_cert={self.path}/none", flags[1]], "cannot read"),
                                ([f"--tls_cert={other_key}", flags[1]], "no PEM certificate"),
                                ([f"--tls_cert={expired[0]}", f"--tls_key={expired[1]}"], "has expired"),
                                ([*flags, f"--tls_client_ca={other_key}"], "no PEM certificate"),
                                ([f"--auth_tokens={other_key}"], "64 hex digits")):
            for check in ([], ["--check_config"]):
                result = subprocess.run([BIN / "spotd", "--model", self.model, "--listen=127.0.0.1:0",
                                         "--http_listen=off", *arguments, *check], capture_output=True, text=True,
                                        timeout=60, check=False)
                self.assertEqual(result.returncode, 2 if check else 1, arguments)
                self.assertIn(word, result.stderr)

    def test_stranger_without_a_token(self):
        tokens = self.path / "tokens"
        tokens.write_text(token_line("alpha", "team-a") + token_line("beta", "team-b"))
        with self.serve(*self.tls_flags("token"), f"--auth_tokens={tokens}") as spotd:
            def call(*arguments, token=""):
                return ctl(spotd.address, *arguments, token=token, ca=self.ca.cert)

            self.assertEqual(call("models", token="alpha").returncode, 0)
            self.assert_refused(call("models"), "UNAUTHENTICATED", "TOKEN_MISSING")
            self.assert_refused(call("models", token="guess"), "UNAUTHENTICATED", "TOKEN_INVALID")
            self.assert_refused(call("generate", "--text", "hi", token="guess"), "UNAUTHENTICATED")
            self.assert_refused(call("sessions", "create"), "UNAUTHENTICATED")
            self.assert_refused(call("append", "s", "--text", "hi"), "UNAUTHENTICATED")
            self.assertEqual(call("health").returncode, 0, "probes need no token by default")
            session = call("sessions", "create", token="alpha").stdout.strip()
            self.assert_refused(call("sessions", "show", session, token="beta"), "SESSION_NOT_FOUND")
            self.assertNotIn(session, call("sessions", "list", token="beta").stdout)
            self.assert_refused(call("sessions", "delete", session, token="beta"), "SESSION_NOT_FOUND")

            tokens.write_text(token_line("gamma", "team-a"))
            wait_until(lambda: call("models", token="gamma").returncode == 0, "the new token is not in use")
            self.assert_refused(call("models", token="alpha"), "TOKEN_INVALID")
            self.assertEqual(call("sessions", "show", session, token="gamma").returncode, 0, "of the same tenant")
            for line in spotd.log:
                for secret in ("alpha", "guess", "gamma", hashlib.sha256(b"alpha").hexdigest()):
                    self.assertNotIn(secret, line)

    def test_health_and_reflection_may_need_a_token(self):
        tokens = self.path / "health-tokens"
        tokens.write_text(token_line("alpha", "team-a"))
        with self.serve(*self.tls_flags("health"), f"--auth_tokens={tokens}", "--auth_health") as spotd:
            self.assert_refused(ctl(spotd.address, "health", ca=self.ca.cert), "UNAUTHENTICATED")
            self.assertEqual(ctl(spotd.address, "health", ca=self.ca.cert, token="alpha").returncode, 0)
            self.assertEqual(ctl(spotd.address, "models", ca=self.ca.cert, token="alpha").returncode, 0)
            self.assert_refused(ctl(spotd.address, "models", ca=self.ca.cert), "TOKEN_MISSING")

    def test_nothing_of_a_prompt_in_log_or_metrics(self):
        with self.serve() as spotd:
            session = ctl(spotd.address, "sessions", "create").stdout.strip()
            for arguments in (["append", session, "--text", CANARY], ["append", session, "--text", CANARY, "--role", "user"],
                              ["generate", session, "--text", CANARY, "--max-tokens", "2"],
                              ["generate", session, "--message", CANARY, "--max-tokens", "2", "--stop", CANARY],
                              ["complete", "--text", CANARY, "--max-tokens", "2"],
                              ["tokenize", CANARY], ["sessions", "show", CANARY], ["health", CANARY],
                              ["append", session, "--text", CANARY * 100]):  # past the context
                ctl(spotd.address, *arguments)
            ctl(spotd.address, "models")
            wait_until(lambda: any('"method":"ListModels"' in line for line in spotd.log), "the last call is not logged")
            metrics = spotd.get("/metrics")[1]
            self.assertGreater(metric(parse_metrics(metrics), "spotd_requests_total", method="Generate"), 1)
            self.assertNotIn(CANARY, metrics)
            leaks = [line for line in spotd.log if CANARY in line and "sessions/" + CANARY not in line]
            self.assertEqual(leaks, [])

    def test_the_log_is_json_with_request_and_trace(self):
        with self.serve() as spotd:
            ctl(spotd.address, "models")
            wait_until(lambda: any('"method":"ListModels"' in line for line in spotd.log), "no line for the call")
            for line in spotd.log:
                record = json.loads(line)
                self.assertLessEqual({"ts", "level", "msg"}, set(record))
            call = next(json.loads(line) for line in spotd.log if '"method":"ListModels"' in line)
            self.assertRegex(call["request_id"], r"^[0-9a-f]{32}$")
            self.assertEqual(call["code"], "OK")


if __name__ == "__main__":
    if shutil.which("openssl") is None:
        skip("openssl is not installed; deploy/install-packages test installs it")
    unittest.main(verbosity=2)
