#!/usr/bin/env python3
"""The chart's Envoy in front of two real spotd, in the clear and with TLS on both sides: calls with the same session header
reach the same server. Run through tests/deploy/with_tools."""
import pathlib
import shutil
import subprocess
import sys
import unittest
import urllib.error
import urllib.request

import grpc
import yaml

import chart
from certificate import make_certificate

sys.path.insert(0, str(chart.SOURCE / "tests/e2e"))

from prometheus_server import free_port  # noqa: E402
from spotd_process import TINY_FLAGS, Spotd, metric, parse_metrics, spotctl, temporary_directory, tiny_model, wait_until  # noqa: E402

ENVOY = pathlib.Path(sys.executable).parent / "envoy"
START_TIMEOUT = 60
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
KEYS = [f"conversation-{n}" for n in range(24)]


def name_of(message: bytes) -> bytes:
    """Field 1 of a Session, and of a GetSessionRequest: its name, tag and length included."""
    assert message[0] == 0x0A
    return message[:2 + message[1]]


class Routing:
    """What both ways of running it share; the subclasses say which values file, and TLS or not."""

    case = ""
    header = ""
    tls = False

    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.path = pathlib.Path(cls.directory.name)
        flags = list(TINY_FLAGS)
        if cls.tls:
            make_certificate(cls.path, ["localhost", "demo-spotd-pods.llm.svc"])
            flags += [f"--tls_cert={cls.path}/tls.crt", f"--tls_key={cls.path}/tls.key"]
        model = tiny_model(cls.directory.name)
        cls.servers = [Spotd(model, *flags) for _ in range(2)]
        for server in cls.servers:
            cls.addClassCleanup(lambda s=server: s.process.returncode is None and s.__exit__())
            server.__enter__()
        cls.port, cls.admin, cls.status = free_port(), free_port(), free_port()
        cls.write_local_config()
        log = open(cls.path / "envoy.log", "wb")
        cls.addClassCleanup(log.close)
        envoy = subprocess.Popen([ENVOY, "--config-path", cls.path / "envoy.yaml", "--log-level", "warning",
                                  "--concurrency", "1", "--base-id", str(cls.port)], stdout=log, stderr=log)
        cls.addClassCleanup(envoy.wait)
        cls.addClassCleanup(envoy.terminate)
        cls.channel = cls.connect()
        cls.addClassCleanup(cls.channel.close)
        try:
            grpc.channel_ready_future(cls.channel).result(START_TIMEOUT)
        except grpc.FutureTimeoutError as error:
            raise RuntimeError("Envoy does not answer:\n" + (cls.path / "envoy.log").read_text()[-3000:]) from error

    @classmethod
    def connect(cls) -> grpc.Channel:
        if not cls.tls:
            return grpc.insecure_channel(f"127.0.0.1:{cls.port}", options=OWN_CONNECTION)
        credentials = grpc.ssl_channel_credentials((cls.path / "ca.crt").read_bytes())
        return grpc.secure_channel(f"localhost:{cls.port}", credentials, options=OWN_CONNECTION)

    @classmethod
    def shipped(cls) -> dict:
        documents = chart.manifests(chart.rendered(chart.VALUES / cls.case))
        return chart.find(documents, "ConfigMap", "demo-spotd-envoy")["data"]

    @classmethod
    def write_local_config(cls):
        """The chart's configuration with other addresses and paths: free ports, and two servers for the pods' name."""
        data = {name: text.replace("/etc/envoy/", f"{cls.path}/").replace("/etc/spotd-tls", str(cls.path))
                for name, text in cls.shipped().items()}
        config = yaml.safe_load(data["envoy.yaml"])
        ports = {50051: cls.port, 9901: cls.admin, 9902: cls.status}
        resources = config["static_resources"]
        clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
        admin = clusters["admin"]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        for holder in (config["admin"], admin, *resources["listeners"]):
            holder["address"]["socket_address"] = {
                "address": "127.0.0.1", "port_value": ports[holder["address"]["socket_address"]["port_value"]]}
        group = clusters["spotd"]["load_assignment"]["endpoints"][0]
        assert group["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"] == "demo-spotd-pods.llm.svc"
        group["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": int(port)}}}}
            for port in (server.address.rpartition(":")[2] for server in cls.servers)]
        (cls.path / "envoy.yaml").write_text(yaml.safe_dump(config))
        for name in set(data) - {"envoy.yaml"}:
            (cls.path / name).write_text(data[name])

    def call(self, method: str, request: bytes, key: str) -> bytes:
        """A unary call with messages as bytes, so that no generated code is needed."""
        call = self.channel.unary_unary(f"/spotd.v1.SessionService/{method}", request_serializer=bytes,
                                        response_deserializer=bytes)
        return call(request, metadata=[(self.header, key)], timeout=60)

    def clusters(self) -> list:
        """What Envoy knows of the servers, a line a fact."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/clusters", timeout=60) as reply:
            return [line.partition("::")[2] for line in reply.read().decode().splitlines()]

    def sessions(self, server: Spotd) -> float:
        return metric(parse_metrics(server.get("/metrics")[1]), "spotd_sessions")

    def test_1_what_envoy_shows(self):
        def get(path):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.status}{path}", timeout=60) as reply:
                    return reply.status
            except urllib.error.HTTPError as error:
                return error.code
        self.assertEqual((get("/ready"), get("/stats/prometheus")), (200, 200))
        self.assertEqual((get("/config_dump"), get("/quitquitquit")), (404, 404))

    def test_2_a_session_is_found_again_by_its_header(self):
        names = {key: name_of(self.call("CreateSession", b"", key)) for key in KEYS}
        for _ in range(3):
            for key, name in names.items():
                self.assertEqual(name_of(self.call("GetSession", name, key)), name)
        counts = [self.sessions(server) for server in self.servers]
        self.assertEqual(sum(counts), len(KEYS))
        self.assertGreater(min(counts), 0, f"the ring sends everything to one server: {counts}")
        # Another value leads elsewhere for some: the header is what decides.
        lost = 0
        for key, name in names.items():
            try:
                self.call("GetSession", name, key + "-not")
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
                lost += 1
        self.assertGreater(lost, 0)

    def test_3_streams_pass(self):
        security = ["--tls-ca", str(self.path / "ca.crt")] if self.tls else []
        result = spotctl(f"localhost:{self.port}", "generate", "--text", "one", "--max-tokens", "5", "--ignore-eos", *security)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_3_envoy_sets_no_bound_of_its_own(self):
        """How many calls may run is the servers' to say, with a reason; Envoy's own default is 1024."""
        channels = [self.connect() for _ in range(3)]
        calls = [channel.unary_stream("/grpc.health.v1.Health/Watch", request_serializer=bytes, response_deserializer=bytes)(
                     b"", metadata=[(self.header, str(number))], timeout=120)
                 for channel in channels for number in range(400)]
        try:
            self.assertEqual({next(call) for call in calls}, {b"\x08\x01"})  # SERVING
        finally:
            for call in calls:
                call.cancel()
            for channel in channels:
                channel.close()

    def test_4_when_a_server_goes_the_other_takes_over(self):
        keys = {}
        for key in KEYS:
            before = self.sessions(self.servers[0])
            name = name_of(self.call("CreateSession", b"", key))
            keys[key] = (self.sessions(self.servers[0]) > before, name)
        self.servers[0].__exit__()
        gone = f"{self.servers[0].address}::cx_active::0"
        wait_until(lambda: gone in self.clusters(), "Envoy does not see that its connections are closed")
        for key, (gone, name) in keys.items():
            if gone:
                self.call("CreateSession", b"", key)
            else:
                self.assertEqual(name_of(self.call("GetSession", name, key)), name)


class PlainRoutingTest(Routing, unittest.TestCase):
    case, header = "envoy-distill.yaml", "x-conversation"

    def test_0_envoy_accepts_the_configuration_as_it_is(self):
        path = self.path / "as-shipped.yaml"
        path.write_text(self.shipped()["envoy.yaml"])
        result = subprocess.run([ENVOY, "--mode", "validate", "--config-path", path, "--base-id", str(self.admin)],
                                capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)


class TlsRoutingTest(Routing, unittest.TestCase):
    case, header, tls = "tls.yaml", "x-spotd-session", True


if __name__ == "__main__":
    if not shutil.which(str(ENVOY)):
        raise SystemExit(f"{ENVOY} is missing")
    unittest.main(verbosity=2)
