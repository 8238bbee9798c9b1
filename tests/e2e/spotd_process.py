"""Runs the real programs for the end-to-end tests: spotd on free ports, spotctl, and a tiny random model."""
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["SPOTD_BIN"])
START_TIMEOUT = 60
TINY_FLAGS = ["--kv_memory=64MiB", "--threads=1", "--dense_below_tokens=0"]


def tiny_model(directory: str, context_length: int = 512) -> str:
    """A copy of tests/data/models/qwen3 with room for `context_length` tokens."""
    model = pathlib.Path(directory) / "qwen3"
    shutil.copytree(SOURCE / "tests/data/models/qwen3", model)
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = context_length
    (model / "config.json").write_text(json.dumps(config))
    return str(model)


class Spotd:
    """A running spotd. Use as a context manager; it is drained at the end, or killed when that fails."""

    def __init__(self, model: str, *flags: str):
        command = [str(BIN / "spotd"), "--model", model, "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = []
        self.address = self.http = ""
        self._serving = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if '"msg":"serving"' in line:
                serving = json.loads(line)
                self.address, self.http = serving["grpc"], serving["http"]
                self._serving.set()
        self._serving.set()  # the process has ended

    def __enter__(self):
        self._serving.wait(START_TIMEOUT)
        if not self.address:
            self.process.kill()
            raise RuntimeError("spotd did not start:\n" + "\n".join(self.log))
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process.wait()
            self._reader.join()
            self.process.stderr.close()

    def get(self, path: str):
        """(status, body) of an HTTP GET."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def wait_until(condition, message: str):
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


def run_spotd(*arguments: str):
    """A spotd that is expected to end by itself: CompletedProcess."""
    return subprocess.run([str(BIN / "spotd"), *arguments], capture_output=True, text=True, timeout=START_TIMEOUT,
                          check=False)


def spotctl(address: str, *arguments: str, stdin: str = ""):
    environment = dict(os.environ, SPOTD_ADDRESS=address)
    return subprocess.run([str(BIN / "spotctl"), *arguments], input=stdin, capture_output=True, text=True, timeout=120,
                          env=environment, check=False)


def parse_metrics(page: str) -> dict:
    """{'name{labels}': value}; fails on a line that is neither a comment nor a sample."""
    samples = {}
    for line in page.splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r'([a-zA-Z_:][\w:]*(?:\{[^{}]*\})?) (\S+)', line)
        assert found, f"not a sample: {line!r}"
        assert found.group(1) not in samples, f"twice: {line!r}"
        samples[found.group(1)] = float(found.group(2))
    return samples


def metric(samples: dict, name: str, **labels: str) -> float:
    """The sum of the series of `name` that carry `labels`."""
    total, found = 0.0, False
    for series, value in samples.items():
        if series.split("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
            total, found = total + value, True
    assert found, f"no series {name} {labels}"
    return total


def temporary_directory():
    return tempfile.TemporaryDirectory(prefix="spotd_e2e_")


def skip(reason: str):
    """Ends the test program as skipped for ctest."""
    print(f"SKIPPED: {reason}")
    sys.exit(77)


def main_with_grpc():
    """Runs the program's tests under SPOTD_PYTHON, an interpreter with clients/python's requirements; without that variable,
    and without grpcio here, they are skipped."""
    interpreter = os.environ.get("SPOTD_PYTHON")
    if interpreter and pathlib.Path(interpreter).absolute() != pathlib.Path(sys.executable).absolute():
        os.execv(interpreter, [interpreter, *sys.argv])
    if not interpreter and not importlib.util.find_spec("grpc_tools"):
        skip("grpcio is not installed; set SPOTD_PYTHON to an interpreter with clients/python/requirements.txt")
    unittest.main(verbosity=2)
