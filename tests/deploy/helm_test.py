#!/usr/bin/env python3
"""The chart: lint, the matrix of values, schemas of Kubernetes and of custom resources, what the values schema refuses,
golden manifests, and that nothing is asked of a program that it does not know. Run through tests/deploy/with_tools."""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import jsonschema
import yaml

import api_rules
import chart
from certificate import make_certificate

sys.path.insert(0, str(chart.SOURCE / "tests/e2e"))
from spotd_process import tiny_model  # noqa: E402

BIN = pathlib.Path(os.environ["SPOTD_BIN"])
MINIMAL = chart.VALUES / "minimal.yaml"
SHA = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Mistakes and what the refusal must name. Each is laid over minimal.yaml.
REFUSED = {
    "an unknown key": ("replicaCount: 2", "replicaCount"),
    "an unknown key below": ("probes: {startup: {period: 2}}", "period"),
    "an unknown option of spotd": ("config: {max_contexts: 4096}", "max_contexts"),
    "an option that the chart owns": ("config: {listen: '0.0.0.0:1'}", "listen"),
    "a wrong type": ("replicas: two", "replicas"),
    "a negative count": ("replicas: -1", "replicas"),
    "a size without sense": ("config: {kv_memory: lots}", "kv_memory"),
    "a duration without unit": ("config: {stall_timeout: '90'}", "stall_timeout"),
    "a checksum that is none": (f"model: {{download: {{files: [{{url: 'https://x/y', path: y, sha256: '{SHA[1:]}'}}]}}}}",
                                "sha256"),
    "a file without checksum": ("model: {download: {files: [{url: 'https://x/y', path: y}]}}", "sha256"),
    "a path that climbs": (f"model: {{download: {{files: [{{url: 'https://x/y', path: ../y, sha256: '{SHA}'}}]}}}}", "path"),
    "a quote in a URL": (f"model: {{download: {{files: [{{url: \"https://x/'y\", path: y, sha256: '{SHA}'}}]}}}}", "url"),
    "an unknown source": ("model: {source: s3}", "source"),
    "an unknown scaler": ("autoscaling: {mode: vpa}", "mode"),
    "KV use beyond 1": ("autoscaling: {kvUsage: 80}", "kvUsage"),
    "scaling to zero": ("autoscaling: {minReplicas: 0}", "minReplicas"),
    "a digest that is none": ("image: {digest: 'sha256:12'}", "digest"),
    "a flag with dashes": ("distill: {flags: {--length: 2}}", "length"),
    "a label that selectors use": ("podLabels: {app.kubernetes.io/name: other}", "app.kubernetes.io/name"),
    "a label's value that Kubernetes refuses": ("commonLabels: {team: 'a b'}", "team"),
    "a name that no Service can have": ("fullnameOverride: chat.v1", "fullnameOverride"),
    "fewer pods at most than at least": ("autoscaling: {mode: hpa, minReplicas: 5}", "autoscaling.maxReplicas"),
    "a claim that is not named": ("model: {source: pvc}", "model.pvc.claimName"),
    "no model": ("model: {path: ''}", "model.path"),
    "nothing to download": ("model: {download: {files: []}}", "model.download.files"),
    "tokens in the clear": ("auth: {tokensSecret: {name: t, key: k}}", "tls.enabled"),
    "TLS without a certificate": ("tls: {enabled: true}", "tls.secretName"),
    "cert-manager without an issuer": ("tls: {enabled: true, certManager: {enabled: true}}", "issuerRef.name"),
    "our Envoy before mutual TLS": ("{tls: {enabled: true, secretName: s, clientCaKey: c}, routing: {envoy: {enabled: true}}}",
                                    "tls.clientCaKey"),
    "our Envoy before health checks with tokens": ("{config: {auth_health: true}, routing: {envoy: {enabled: true}}}",
                                                   "config.auth_health"),
    "one port for two": ("metricsPort: 50051", "metricsPort"),
    "a route to nowhere": ("routing: {gateway: {enabled: true}}", "routing.gateway.parentRefs"),
    "a distillation without texts": ("distill: {enabled: true, outputClaim: o}", "distill.corpusClaim"),
}


class ChartTest(unittest.TestCase):
    maxDiff = 4000

    def test_lint(self):
        for case in chart.cases():
            result = chart.helm("lint", "--strict", chart.CHART, "--values", case)
            self.assertEqual(result.returncode, 0, f"{case.name}:\n{result.stdout}{result.stderr}")

    def test_helm_3_makes_the_same_of_it(self):
        for case in chart.cases():
            result = chart.helm("lint", "--strict", chart.CHART, "--values", case, version=3)
            self.assertEqual(result.returncode, 0, f"{case.name}:\n{result.stdout}{result.stderr}")
            self.assertEqual(chart.template("--values", case, version=3).stdout, chart.rendered(case), case.name)
        refused = chart.template("--values", MINIMAL, "--set", "replicaCount=2", version=3)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("replicaCount", refused.stderr)

    def test_every_manifest_fits_its_schema(self):
        for case in chart.cases():
            documents = chart.manifests(chart.rendered(case))
            for version in chart.KUBERNETES_VERSIONS:
                first = chart.FIRST_VERSION.get(case.stem, version)
                if tuple(map(int, version.split("."))) < tuple(map(int, first.split("."))):
                    continue
                for document in documents:
                    with self.subTest(case=case.name, version=version, kind=document["kind"]):
                        chart.validate(document, version)

    def test_the_schemas_can_refuse(self):
        documents = {d["kind"]: d for case in chart.cases() for d in chart.manifests(chart.rendered(case))}
        for kind in ("StatefulSet", "Certificate", "ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "GRPCRoute",
                     "BackendTrafficPolicy"):
            broken = yaml.safe_load(yaml.safe_dump(documents[kind]))
            broken["spec"]["nonsense"] = 1
            with self.subTest(kind=kind), self.assertRaises(jsonschema.ValidationError):
                chart.validate(broken, "1.33")

    def test_mistyped_values_are_refused(self):
        for what, (values, named) in REFUSED.items():
            with self.subTest(what), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(values)
                file.flush()
                result = chart.template("--values", MINIMAL, "--values", file.name)
                self.assertNotEqual(result.returncode, 0, f"accepted: {values}")
                self.assertIn(named, result.stderr)

    def test_every_default_is_in_the_schema(self):
        """helm accepts values.yaml only as far as the schema knows it; a value that templates never read has no place."""
        used = "".join(path.read_text() for path in chart.CHART.rglob("templates/**/*") if path.is_file())
        for name in yaml.safe_load((chart.CHART / "values.yaml").read_text()):
            self.assertRegex(used, rf"\.Values\.{name}\b")

    def test_golden_manifests(self):
        for case in chart.cases():
            golden = chart.GOLDEN / case.name
            self.assertTrue(golden.exists(), f"{golden} is missing: run tests/deploy/regenerate")
            self.assertEqual(chart.rendered(case), golden.read_text(),
                             f"{golden.name} is out of date: look at the difference, then run tests/deploy/regenerate")
        self.assertEqual({p.name for p in chart.GOLDEN.glob("*.yaml")}, {c.name for c in chart.cases()})


class ContentTest(unittest.TestCase):
    """What golden files would let through if somebody regenerated them without looking."""

    def pod(self, case: str, kind: str = "StatefulSet", name: str = "demo-spotd") -> dict:
        return chart.find(chart.manifests(chart.rendered(chart.VALUES / case)), kind, name)["spec"]["template"]["spec"]

    def test_every_pod_is_restricted(self):
        for case in chart.cases():
            for document in chart.manifests(chart.rendered(case)):
                spec = document["spec"] if document["kind"] == "Pod" else document.get("spec", {}).get("template", {}).get("spec")
                if not spec:
                    continue
                self.assertIs(spec["automountServiceAccountToken"], False)
                self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
                self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                for container in spec.get("initContainers", []) + spec["containers"]:
                    if container["name"] == "sidecar":  # the user's own
                        continue
                    context = container["securityContext"]
                    self.assertIs(context["readOnlyRootFilesystem"], True)
                    self.assertIs(context["allowPrivilegeEscalation"], False)
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                    self.assertIn("limits", container["resources"])
                    self.assertNotRegex(container["image"], r":latest$|^[^:@]+$")

    def test_every_pod_has_a_network_policy(self):
        """In a namespace that denies what no policy allows, each pod still reaches what it needs."""
        for case in chart.cases():
            documents = chart.manifests(chart.template("--values", case, "--set", "networkPolicy.enabled=true").stdout)
            self.assertEqual(api_rules.complaints(documents), [])
            policies = {d["metadata"]["labels"]["app.kubernetes.io/component"]: d["spec"] for d in documents
                        if d["kind"] == "NetworkPolicy"}
            pods = [api_rules.pod_template(d)[0]["app.kubernetes.io/component"] for d in documents if api_rules.pod_template(d)]
            self.assertEqual(set(policies), set(pods), case.name)
            for component, spec in policies.items():
                ports = {(port["protocol"], port["port"]) for rule in spec["egress"] for port in rule["ports"]}
                self.assertLessEqual({("UDP", 53), ("UDP", 5353)}, ports)
                if component in ("envoy", "test"):
                    self.assertIn(("TCP", 50051), ports)
                # A name would be looked up in other pods by some networks.
                for rule in spec["ingress"] + spec["egress"]:
                    self.assertTrue(all(isinstance(port["port"], int) for port in rule["ports"]), rule)
                self.assertEqual(bool(spec["ingress"]), component in ("server", "envoy"))

    def test_further_egress_is_of_all_pods_that_download(self):
        rule = {"ports": [{"protocol": "TCP", "port": 9000}]}
        documents = chart.manifests(chart.template("--values", chart.VALUES / "gateway.yaml", "--set-json",
                                                   f"networkPolicy.extraEgress={json.dumps([rule])}").stdout)
        for name, more in (("demo-spotd", True), ("demo-spotd-distill", True), ("demo-spotd-test", False)):
            self.assertEqual(rule in chart.find(documents, "NetworkPolicy", name)["spec"]["egress"], more, name)

    def test_grace_follows_from_the_drain_time(self):
        for case, drain in (("minimal.yaml", 30), ("pvc-gpu.yaml", 120)):
            spec = self.pod(case)
            pre_stop = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
            self.assertGreater(spec["terminationGracePeriodSeconds"], pre_stop + drain)
            config = chart.find(chart.manifests(chart.rendered(chart.VALUES / case)), "ConfigMap")
            self.assertEqual(yaml.safe_load(config["data"]["spotd.yaml"])["drain_timeout"], f"{drain}s")

    def test_probes_ask_over_grpc_and_wait(self):
        container = self.pod("minimal.yaml")["containers"][0]
        for probe, service in (("startup", "spotd.v1.InferenceService"), ("readiness", "spotd.v1.InferenceService"),
                               ("liveness", "")):
            self.assertEqual(container[f"{probe}Probe"]["grpc"], {"port": 50051, "service": service})
            self.assertGreaterEqual(container[f"{probe}Probe"]["timeoutSeconds"], 5)

    def test_with_tls_probes_ask_over_http(self):
        """Kubelets speak no TLS to gRPC."""
        container = self.pod("tls.yaml")["containers"][0]
        for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")):
            self.assertEqual(container[f"{probe}Probe"]["httpGet"], {"path": path, "port": "metrics"})
            self.assertNotIn("grpc", container[f"{probe}Probe"])

    def test_the_notes_show_calls_that_the_pods_accept(self):
        def notes(case):
            result = chart.helm("install", "demo", chart.CHART, "--namespace", "llm", "--dry-run=client",
                                "--values", chart.VALUES / case)
            self.assertEqual(result.returncode, 0, result.stderr)
            return result.stdout.split("\nNOTES:\n")[1]
        inside = r"exec (?:-i )?demo-spotd-0 .*spotctl generate .*"
        self.assertNotIn("TOKEN", notes("minimal.yaml"))
        self.assertRegex(notes("minimal.yaml"), inside)
        self.assertIn("SPOTD_TOKEN=$(cat) ", re.search(inside, notes("tls.yaml"))[0])
        self.assertRegex(notes("tls.yaml"), r"--tls-ca ca.crt --token-file FILE chat")
        self.assertNotRegex(notes("mutual-tls.yaml"), inside)
        self.assertRegex(notes("mutual-tls.yaml"), r"--tls-ca issuer.crt --tls-cert FILE --tls-key FILE chat")

    def test_the_guide_sorts_one_kind_at_a_time(self):
        """kubectl looks for the field in every table: "couldn't find any field with path {.lastTimestamp}" among pods."""
        commands = re.findall(r"kubectl.* get (\S+).* --sort-by", (chart.SOURCE / "docs/operations.md").read_text())
        self.assertEqual(commands, ["events"])

    def test_the_certificate_has_every_name_that_clients_use(self):
        documents = chart.manifests(chart.rendered(chart.VALUES / "tls.yaml"))
        certificate = chart.find(documents, "Certificate")["spec"]
        self.assertEqual(certificate["secretName"], "demo-spotd-tls")
        test = [d for d in documents if d["kind"] == "Pod"][0]["spec"]["containers"][0]
        address = next(e["value"] for e in test["env"] if e["name"] == "SPOTD_ADDRESS")
        self.assertIn(address.split(":")[0], certificate["dnsNames"])
        self.assertLessEqual({"demo-spotd-pods.llm.svc", "*.demo-spotd-pods.llm.svc", "localhost", "spotd.example.com"},
                             set(certificate["dnsNames"]))

    def test_gpu(self):
        spec = self.pod("pvc-gpu.yaml")
        self.assertEqual(spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertEqual(spec["runtimeClassName"], "nvidia")
        self.assertIn({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, spec["tolerations"])
        self.assertTrue(spec["containers"][0]["image"].endswith("-cuda"))
        self.assertNotIn("runtimeClassName", self.pod("minimal.yaml"))
        # By dynamic resource allocation: the image for CPUs would leave the device idle.
        self.assertTrue(self.pod("gateway.yaml")["containers"][0]["image"].endswith("-cuda"))
        self.assertFalse(self.pod("minimal.yaml")["containers"][0]["image"].endswith("-cuda"))
        jobs = [d for d in chart.manifests(chart.rendered(chart.VALUES / "gateway.yaml")) if d["kind"] == "Job"]
        self.assertEqual(jobs[0]["spec"]["template"]["spec"]["containers"][0]["resources"]["claims"], [{"name": "gpu"}])

    def test_a_changed_option_rolls_the_pods(self):
        def checksum(*more):
            documents = chart.manifests(chart.template("--values", MINIMAL, *more).stdout)
            return chart.find(documents, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        self.assertNotEqual(checksum(), checksum("--set", "config.max_waiting=7"))
        self.assertEqual(checksum(), checksum("--set", "replicas=3"))

    def test_threads_follow_from_the_cpu_limit(self):
        def threads(*more):
            documents = chart.manifests(chart.template("--values", MINIMAL, *more).stdout)
            return yaml.safe_load(chart.find(documents, "ConfigMap")["data"]["spotd.yaml"]).get("threads")
        self.assertEqual(threads("--set-string", "resources.limits.cpu=6"), 6)
        self.assertEqual(threads("--set", "resources.limits.cpu=6,config.threads=3"), 3)
        self.assertIsNone(threads("--set", "resources.limits.cpu=1500m"))

    def test_the_rules_of_the_chart_are_those_of_deploy_prometheus(self):
        documents = chart.manifests(chart.rendered(chart.VALUES / "pvc-gpu.yaml"))
        rules = yaml.safe_load((chart.SOURCE / "deploy/prometheus/spotd.rules.yaml").read_text())
        self.assertEqual([g["name"] for g in chart.find(documents, "PrometheusRule")["spec"]["groups"]],
                         [g["name"] for g in rules["groups"]])
        boards = [d for d in documents if d["metadata"]["labels"].get("grafana_dashboard") == "1"]
        self.assertEqual(len(boards), len(list((chart.SOURCE / "deploy/grafana/dashboards").glob("*.json"))))

    def test_copies_in_the_chart_are_those_of_deploy(self):
        self.assertEqual((chart.CHART / "files/spotd.rules.yaml").read_text(),
                         (chart.SOURCE / "deploy/prometheus/spotd.rules.yaml").read_text())
        for board in (chart.SOURCE / "deploy/grafana/dashboards").glob("*.json"):
            self.assertEqual((chart.CHART / "files/dashboards" / board.name).read_text(), board.read_text())


def make_mounts(directory: str):
    """What the chart mounts from secrets: a certificate, its key, authorities, tokens."""
    tls, auth = pathlib.Path(directory) / "spotd-tls", pathlib.Path(directory) / "spotd-auth"
    tls.mkdir(mode=0o700)
    auth.mkdir(mode=0o700)
    make_certificate(tls, ["localhost"])
    (tls / "clients.crt").write_text((tls / "tls.crt").read_text())
    (auth / "tokens").write_text(hashlib.sha256(b"secret").hexdigest() + " team-a\n")
    (auth / "tokens").chmod(0o600)


class ProgramTest(unittest.TestCase):
    """The chart against the programs that it starts."""

    def test_the_values_schema_is_that_of_this_spotd(self):
        # docs/configuration.md is compared with the program itself in tests/e2e.
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            subprocess.run([chart.SOURCE / "helm/make_schema.py", file.name], check=True)
            self.assertEqual(file.read(), (chart.CHART / "values.schema.json").read_text(),
                             "spotd's options have changed: run tests/deploy/regenerate, and see that `config` still fits")

    def test_spotd_takes_every_rendered_configuration(self):
        """The real program checks it, with a small model and certificates of ours in the places of the mounted ones."""
        for case in chart.cases():
            documents = chart.manifests(chart.rendered(case))
            container = chart.find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
            with self.subTest(case=case.name), tempfile.TemporaryDirectory() as directory:
                make_mounts(directory)
                config = yaml.safe_load(chart.find(documents, "ConfigMap")["data"]["spotd.yaml"])
                config |= {"model": tiny_model(directory, 131072), "backend": "cpu"}
                if config.pop("selector", None):
                    config["policy"] = "quest"  # the small model has no selector
                text = yaml.safe_dump(config).replace("/etc/spotd-", f"{directory}/spotd-")
                (pathlib.Path(directory) / "spotd.yaml").write_text(text)
                flags = [flag.replace("/etc/spotd/", f"{directory}/") for flag in container["args"]]
                set_here = {entry["name"]: entry["value"] for entry in container.get("env", [])}
                result = subprocess.run([BIN / "spotd", *flags, "--check_config"], capture_output=True, text=True, check=False,
                                        timeout=120, env=dict(os.environ, **set_here))
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_spotctl_knows_what_the_chart_asks_of_it(self):
        texts = [(chart.CHART / "templates/tests/generate.yaml").read_text(),
                 (chart.CHART / "templates/NOTES.txt").read_text(),
                 (chart.SOURCE / "docs/operations.md").read_text()]
        found = 0
        for line in "\n".join(texts).splitlines():
            call = re.search(r"spotctl (?:--address \S+ )?(health|complete|generate|chat|models|sessions list)\b(.*)", line)
            if call is None:
                continue
            usage = subprocess.run([BIN / "spotctl", *call.group(1).split(), "--help"], capture_output=True, text=True, check=True)
            for flag in re.findall(r"--[a-z-]+", line.split("spotctl", 1)[1]):
                found += 1
                self.assertIn(flag, usage.stdout, line)
        self.assertGreaterEqual(found, 5)

    def distill_script(self, *more) -> str:
        result = chart.template("--values", chart.VALUES / "envoy-distill.yaml", *more)
        job = [d for d in chart.manifests(result.stdout) if d["kind"] == "Job"][0]
        return job["spec"]["template"]["spec"]["containers"][0]["args"][0]

    def test_the_distillation_job_writes_flags_as_spot_distill_reads_them(self):
        script = self.distill_script()
        self.assertIn("--tokens=20000000 ", script)
        self.assertIn("--lr=0.005 ", script)
        flags = set(re.findall(r"--([a-z_]+)", script))
        source = (chart.SOURCE / "tools/spot_distill/main.cc").read_text()
        self.assertLessEqual(flags, set(re.findall(r"ABSL_FLAG\([^,]+, (\w+),", source)))

    def test_the_distillation_job_runs_and_resumes(self):
        if not (BIN / "spot-distill").exists():
            self.skipTest("spot-distill is not built")
        flags = ("distill.outputPath=new/s.safetensors,distill.flags.length=32,distill.flags.tokens=512,distill.flags.sequences=4,"
                 "distill.flags.queries=8,distill.flags.threads=1,distill.flags.held_out_sequences=1")
        script = self.distill_script("--set", flags)
        # Another job that writes the same file: the checkpoint of the first is not its own.
        other = self.distill_script("--set", flags + ",distill.flags.queries=4")
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            (root / "corpus").mkdir()
            (root / "output").mkdir()
            (root / "corpus/text.txt").write_text((chart.SOURCE / "deploy/demo/document.txt").read_text())
            model = tiny_model(directory)
            environment = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}")
            for run, checkpoints in ((script, 1), (script, 1), (other, 2)):  # the second finds the checkpoint of the first
                for mounted in ("/corpus", "/output"):
                    run = run.replace(mounted, directory + mounted)
                run = run.replace("/models/model.gguf", model)
                result = subprocess.run(["/bin/bash", "-ec", run], capture_output=True, text=True, check=False,
                                        env=environment, timeout=300)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
                self.assertTrue((root / "output/new/s.safetensors").exists())
                self.assertEqual(len(list((root / "output/new").glob("s.safetensors.*.checkpoint"))), checkpoints)


if __name__ == "__main__":
    unittest.main(verbosity=2)
