#!/usr/bin/env python3
"""The chart's download script, run for real against a small HTTP server. Run through tests/deploy/with_tools."""
import hashlib
import http.server
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest
import unittest.mock

import chart
import yaml

FILES = {"/model.gguf": b"weights" * 1000, "/selector": b"selector"}


class Handler(http.server.BaseHTTPRequestHandler):
    seen = []  # (path, authorization)

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization")))
        body = FILES.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


class DownloadTest(unittest.TestCase):
    def setUp(self):
        Handler.seen.clear()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.directory = tempfile.TemporaryDirectory()
        self.models = pathlib.Path(self.directory.name) / "models"
        self.models.mkdir()

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()
        self.directory.cleanup()

    def script(self, model_sha256: str, selector_sha256: str) -> str:
        address = f"http://127.0.0.1:{self.server.server_port}"
        values = {"model": {"path": "sub/model.gguf", "download": {"files": [
            {"url": f"{address}/model.gguf", "path": "sub/model.gguf", "sha256": model_sha256},
            {"url": f"{address}/selector", "path": "s.safetensors", "sha256": selector_sha256}]}}}
        path = pathlib.Path(self.directory.name) / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        result = chart.template("--values", path)
        self.assertEqual(result.returncode, 0, result.stderr)
        return chart.find(chart.manifests(result.stdout), "ConfigMap")["data"]["download-model"]

    def run_script(self, model_sha256: str = "", selector_sha256: str = "", **environment):
        script = pathlib.Path(self.directory.name) / "download-model"
        script.write_text(self.script(model_sha256 or hashlib.sha256(FILES["/model.gguf"]).hexdigest(),
                                      selector_sha256 or hashlib.sha256(FILES["/selector"]).hexdigest()))
        return subprocess.run(["bash", script, self.models], capture_output=True, text=True, check=False,
                              env=dict(os.environ, no_proxy="127.0.0.1", **environment), timeout=60)

    def names(self) -> set:
        return {str(path.relative_to(self.models)) for path in self.models.rglob("*") if path.is_file()}

    def test_fetches_checks_and_keeps(self):
        result = self.run_script()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.names(), {"sub/model.gguf", "s.safetensors"})
        self.assertEqual((self.models / "sub/model.gguf").read_bytes(), FILES["/model.gguf"])
        self.assertEqual([path for path, _ in Handler.seen], ["/model.gguf", "/selector"])
        again = self.run_script()
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(len(Handler.seen), 2, "fetched again what was there and right")

    def test_a_damaged_file_is_fetched_anew(self):
        self.run_script()
        (self.models / "s.safetensors").write_bytes(b"damaged")
        self.assertEqual(self.run_script().returncode, 0)
        self.assertEqual((self.models / "s.safetensors").read_bytes(), FILES["/selector"])

    def test_a_wrong_checksum_leaves_nothing(self):
        result = self.run_script("0" * 64)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("sub/model.gguf: the sha256 is not", result.stderr)
        self.assertEqual(self.names(), set())

    def test_a_missing_file_fails(self):
        with unittest.mock.patch.dict(FILES, {"/selector": None}):
            result = self.run_script(selector_sha256="1" * 64)
        self.assertNotEqual(result.returncode, 0)
        self.assertEqual(self.names(), {"sub/model.gguf"})

    def test_the_token_goes_with_every_file(self):
        self.assertEqual(self.run_script(DOWNLOAD_TOKEN="secret").returncode, 0)
        self.assertEqual([token for _, token in Handler.seen], ["Bearer secret"] * 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
