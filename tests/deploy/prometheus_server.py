"""A real Prometheus in a temporary directory, for the tests: scrapes one target and evaluates the shipped rules."""
import json
import pathlib
import random
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import yaml

START_TIMEOUT = 60


def free_port() -> int:
    """A port that nothing listens on; below those that the system hands out, or a connection of another test may have it
    before the program that it is for."""
    first_handed_out = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first_handed_out // 2, first_handed_out)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Prometheus:
    """Use as a context manager. Scrapes `target` each second; rules run every two, whatever interval they name."""

    def __init__(self, directory: pathlib.Path, target: str, rules: pathlib.Path):
        quick = re.sub(r"(?m)^(    interval:) .*$", r"\1 2s", rules.read_text())
        (directory / "rules.yaml").write_text(quick)
        (directory / "prometheus.yaml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "2s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "spotd", "static_configs": [{"targets": [target]}]}]}))
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = open(directory / "prometheus.log", "wb")
        self._process = subprocess.Popen(
            [shutil.which("prometheus"), f"--config.file={directory}/prometheus.yaml",
             f"--storage.tsdb.path={directory}/data", f"--web.listen-address={self.url.removeprefix('http://')}"],
            stdout=self._log, stderr=self._log)

    def __enter__(self):
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(self.url + "/-/ready", timeout=10).close()
                return self
            except OSError:
                time.sleep(0.1)
        self.__exit__()
        raise RuntimeError("prometheus did not start: " + pathlib.Path(self._log.name).read_text()[-2000:])

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def get(self, path: str, **parameters):
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=60) as reply:
            return json.load(reply)["data"]

    def query(self, expression: str) -> list:
        """The values of an instant query; [] for no data. An error of Prometheus is raised with its text."""
        try:
            data = self.get("query", query=expression)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}\n{error.read().decode()}") from error
        if data["resultType"] == "scalar":
            return [float(data["result"][1])]
        return [float(series["value"][1]) for series in data["result"]]
