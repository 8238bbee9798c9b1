#!/usr/bin/env python3
"""The chart's Envoy in front of two real spotd: calls with the same session header reach the same server. Run through
tests/deploy/with_tools."""
import pathlib
import shutil
import subprocess
import sys
import time
import unittest

import grpc
import yaml

import chart

sys.path.insert(0, str(chart.SOURCE / "tests/e2e"))

from prometheus_server import free_port  # noqa: E402
from spotd_process import TINY_FLAGS, Spotd, metric, parse_metrics, spotctl, temporary_directory, tiny_model  # noqa: E402

HEADER = "x-conversation"
ENVOY = pathlib.Path(sys.executable).parent / "envoy"
START_TIMEOUT = 30
KEYS = [f"conversation-{n}" for n in range(24)]


def raw_call(channel: grpc.Channel, method: str, request: bytes, key: str) -> bytes:
    """A unary call with messages as bytes, so that no generated code is needed."""
    call = channel.unary_unary(f"/spotd.v1.SessionService/{method}", request_serializer=bytes, response_deserializer=bytes)
    return call(request, metadata=[(HEADER, key)], timeout=20)


def name_of(message: bytes) -> bytes:
    """Field 1 of a Session, and of a GetSessionRequest: its name, tag and length included."""
    assert message[0] == 0x0A
    return message[:2 + message[1]]


class RoutingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        model = tiny_model(cls.directory.name)
        cls.servers = [Spotd(model, *TINY_FLAGS).__enter__() for _ in range(2)]
        cls.config_path = pathlib.Path(cls.directory.name) / "envoy.yaml"
        cls.port, cls.admin = free_port(), free_port()
        cls.config_path.write_text(yaml.safe_dump(cls.local_config()))
        cls.log = open(pathlib.Path(cls.directory.name) / "envoy.log", "wb")
        cls.envoy = subprocess.Popen([ENVOY, "--config-path", cls.config_path, "--log-level", "warning", "--concurrency", "1",
                                      "--base-id", str(cls.port)], stdout=cls.log, stderr=cls.log)
        cls.channel = grpc.insecure_channel(f"127.0.0.1:{cls.port}")
        grpc.channel_ready_future(cls.channel).result(START_TIMEOUT)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.envoy.terminate()
        cls.envoy.wait()
        cls.log.close()
        for server in cls.servers:
            if server.process.returncode is None:
                server.__exit__()
        cls.directory.cleanup()

    @classmethod
    def local_config(cls) -> dict:
        """The chart's configuration with other addresses: free ports, and two servers for the pods' name."""
        documents = chart.manifests(chart.rendered(chart.VALUES / "envoy-distill.yaml"))
        config = yaml.safe_load(chart.find(documents, "ConfigMap", "demo-spotd-envoy")["data"]["envoy.yaml"])
        config["admin"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": cls.admin}
        resources = config["static_resources"]
        resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": cls.port}
        group = resources["clusters"][0]["load_assignment"]["endpoints"][0]
        assert group["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"] == "demo-spotd-pods.llm.svc"
        group["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": int(port)}}}}
            for port in (server.address.rpartition(":")[2] for server in cls.servers)]
        return config

    def sessions(self, server: Spotd) -> float:
        return metric(parse_metrics(server.get("/metrics")[1]), "spotd_sessions")

    def test_1_envoy_accepts_the_configuration_as_it_is(self):
        documents = chart.manifests(chart.rendered(chart.VALUES / "envoy-distill.yaml"))
        path = pathlib.Path(self.directory.name) / "as-shipped.yaml"
        path.write_text(chart.find(documents, "ConfigMap", "demo-spotd-envoy")["data"]["envoy.yaml"])
        result = subprocess.run([ENVOY, "--mode", "validate", "--config-path", path, "--base-id", str(self.admin)],
                                capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_2_a_session_is_found_again_by_its_header(self):
        names = {key: name_of(raw_call(self.channel, "CreateSession", b"", key)) for key in KEYS}
        for _ in range(3):
            for key, name in names.items():
                self.assertEqual(name_of(raw_call(self.channel, "GetSession", name, key)), name)
        counts = [self.sessions(server) for server in self.servers]
        self.assertEqual(sum(counts), len(KEYS))
        self.assertGreater(min(counts), 0, f"the ring sends everything to one server: {counts}")
        # Another value leads elsewhere for some: the header is what decides.
        lost = 0
        for key, name in names.items():
            try:
                raw_call(self.channel, "GetSession", name, key + "-not")
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
                lost += 1
        self.assertGreater(lost, 0)

    def test_3_streams_pass(self):
        result = spotctl(f"127.0.0.1:{self.port}", "generate", "--text", "one", "--max-tokens", "5", "--ignore-eos")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_4_when_a_server_goes_the_other_takes_over(self):
        keys = {}
        for key in KEYS:
            before = self.sessions(self.servers[0])
            name = name_of(raw_call(self.channel, "CreateSession", b"", key))
            keys[key] = (self.sessions(self.servers[0]) > before, name)
        self.servers[0].__exit__()
        time.sleep(1)
        for key, (gone, name) in keys.items():
            if gone:
                raw_call(self.channel, "CreateSession", b"", key)
            else:
                self.assertEqual(name_of(raw_call(self.channel, "GetSession", name, key)), name)


if __name__ == "__main__":
    if not shutil.which(str(ENVOY)):
        raise SystemExit(f"{ENVOY} is missing")
    unittest.main(verbosity=2)
