#!/usr/bin/env python3
"""The rules by promtool, their runbooks, and the compose file's Prometheus and Grafana settings. Run through
tests/deploy/with_tools."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

SOURCE = pathlib.Path(__file__).resolve().parents[2]
RULES = SOURCE / "deploy/prometheus/spotd.rules.yaml"
RULE_TESTS = SOURCE / "tests/deploy/rules_test.yaml"
COMPOSE = SOURCE / "deploy/compose"


def alerts() -> dict:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def promtool(*arguments, **options):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def anchors(markdown: str) -> set:
    """GitHub's anchors of the headings."""
    titles = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", markdown))
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


class RulesTest(unittest.TestCase):
    def test_promtool_accepts_them(self):
        result = promtool("check", "rules", RULES)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_unit_tests(self):
        result = promtool("test", "rules", RULE_TESTS)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_the_unit_tests_can_fail(self):
        with tempfile.TemporaryDirectory() as directory:
            rules = RULES.read_text().replace("spotd_kv_usage_ratio > 0.95", "spotd_kv_usage_ratio > 0.99")
            (pathlib.Path(directory) / "rules.yaml").write_text(rules)
            tests = yaml.safe_load(RULE_TESTS.read_text())
            tests["rule_files"] = ["rules.yaml"]
            tests["tests"] = [test for test in tests["tests"] if "cache" in test["name"]]
            path = pathlib.Path(directory) / "test.yaml"
            path.write_text(yaml.safe_dump(tests))
            result = promtool("test", "rules", path)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("SpotdKvAlmostFull", result.stdout + result.stderr)

    def test_each_alert_is_seen_to_fire(self):
        fired = {case["alertname"] for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]
                 for case in test["alert_rule_test"] if case["exp_alerts"]}
        self.assertEqual(fired, set(alerts()))

    def test_each_alert_has_its_runbook(self):
        guide = (SOURCE / "docs/operations.md").read_text()
        known = anchors(guide)
        for name, rule in alerts().items():
            with self.subTest(name):
                page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
                self.assertEqual(page, "docs/operations.md")
                self.assertEqual(anchor, name.lower())
                self.assertIn(anchor, known)
                self.assertIn(rule["labels"]["severity"], ("critical", "warning", "info"))
                section = guide.split(f"### {name}\n")[1].split("\n### ")[0]
                self.assertGreater(len(section.split()), 10)
        runbooks = set(re.findall(r"(?m)^### (Spotd\w+)$", guide))
        self.assertEqual(runbooks, set(alerts()), "runbooks without an alert")

    def test_the_runbook_of_refusals_knows_every_reason(self):
        page = (SOURCE / "docs/errors.md").read_text()
        reasons = re.findall(r"(?m)^\| RESOURCE_EXHAUSTED \| `(\w+)`", page)
        self.assertGreater(len(reasons), 3)
        section = (SOURCE / "docs/operations.md").read_text().split("### SpotdRefusing\n")[1].split("\n### ")[0]
        for reason in reasons:
            self.assertIn(f"`{reason}`", section)

    def test_links_inside_the_guide_lead_somewhere(self):
        guide = (SOURCE / "docs/operations.md").read_text()
        for anchor in re.findall(r"\]\(#([^)]*)\)", guide):
            self.assertIn(anchor, anchors(guide))
        for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", guide):
            self.assertTrue((SOURCE / "docs" / path).exists(), path)
        for path in re.findall(r"`((?:deploy|docs|helm|tests|tools)/[\w./-]+)`", guide):
            self.assertTrue((SOURCE / path).exists(), path)


class ComposeTest(unittest.TestCase):
    def setUp(self):
        self.services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]

    def mounts(self, service: str) -> dict:
        """{path in the container: path here} of the mounted files."""
        pairs = [volume.split(":")[:2] for volume in self.services[service]["volumes"] if volume.startswith(".")]
        return {inside: (COMPOSE / outside).resolve() for outside, inside in pairs}

    def compose(self, *files: pathlib.Path) -> subprocess.CompletedProcess:
        """What Docker Compose makes of the files; unknown keys and missing variables are errors."""
        program = pathlib.Path(sys.executable).parent / "docker-compose"
        named = [word for file in files for word in ("--file", str(file))]
        environment = os.environ | {"SPOTD_MODEL_DIR": "/models", "SPOTD_MODEL_FILE": "model.gguf"}
        return subprocess.run([program, *named, "config", "--format=json"], env=environment, capture_output=True, text=True,
                              check=False)

    def test_compose_accepts_it(self):
        both = self.compose(COMPOSE / "compose.yaml", COMPOSE / "gpu.yaml")
        self.assertEqual(both.returncode, 0, both.stderr)
        spotd = json.loads(both.stdout)["services"]["spotd"]
        self.assertEqual(spotd["build"]["args"], {"CUDA": "ON"})
        self.assertEqual(spotd["deploy"]["resources"]["reservations"]["devices"][0]["driver"], "nvidia")
        plain = json.loads(self.compose(COMPOSE / "compose.yaml").stdout)["services"]
        self.assertNotIn("deploy", plain["spotd"])
        self.assertTrue((pathlib.Path(plain["spotd"]["build"]["context"]) / plain["spotd"]["build"]["dockerfile"]).exists())
        for service in plain.values():
            for port in service["ports"]:
                self.assertEqual(port["host_ip"], "127.0.0.1")

    def test_compose_refuses_what_it_does_not_know(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write("services: {spotd: {volume: []}}")
            file.flush()
            self.assertNotEqual(self.compose(COMPOSE / "compose.yaml", pathlib.Path(file.name)).returncode, 0)

    def test_every_mounted_file_exists(self):
        for service in ("prometheus", "grafana"):
            for inside, outside in self.mounts(service).items():
                self.assertTrue(outside.exists(), f"{service}: {inside}")

    def test_prometheus_accepts_its_configuration(self):
        with tempfile.TemporaryDirectory() as directory:
            for inside, outside in self.mounts("prometheus").items():
                shutil.copy(outside, pathlib.Path(directory) / pathlib.Path(inside).name)
            result = promtool("check", "config", pathlib.Path(directory) / "prometheus.yaml")
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertIn("rules found", result.stdout)

    def test_grafana_finds_its_dashboards(self):
        mounts = self.mounts("grafana")
        provider = yaml.safe_load(mounts["/etc/grafana/provisioning/dashboards/spotd.yaml"].read_text())["providers"][0]
        boards = list(mounts[provider["options"]["path"]].glob("*.json"))
        self.assertEqual(len(boards), 4)
        self.assertEqual(len({json.loads(board.read_text())["uid"] for board in boards}), 4)

    def test_images_are_pinned(self):
        for service in self.services.values():
            self.assertRegex(service["image"], r":v?\d+\.\d+\.\d+")


if __name__ == "__main__":
    unittest.main(verbosity=2)
