#!/usr/bin/env python3
"""Dashboards and rules against the real thing: spotd under load, scraped by a real Prometheus. Every query of every panel
and rule must return data; no query may name a metric that spotd does not export; every metric is on a panel or says why
not. Run through tests/deploy/with_tools; needs SPOTD_TEST_MODEL, because covered mass needs a trained selector."""
import concurrent.futures
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(SOURCE / "tests/e2e"), str(SOURCE / "deploy/grafana")]

import yaml  # noqa: E402

import panels  # noqa: E402
from prometheus_server import Prometheus  # noqa: E402
from spotd_process import BIN, Spotd, metric, parse_metrics, skip, spotctl, temporary_directory, wait_until  # noqa: E402

RULES = SOURCE / "deploy/prometheus/spotd.rules.yaml"
BOARDS = sorted((SOURCE / "deploy/grafana/dashboards").glob("*.json"))
SELECTOR = SOURCE / "models/smollm2-135m-instruct/selector.safetensors"
# One running request, one waiting: the load is refused now and then. KV for about 1,500 tokens: idle sessions lose theirs.
FLAGS = ["--selector", str(SELECTOR), "--kv_memory=34MiB", "--threads=1", "--dense_below_tokens=0", "--max_running=2",
         "--max_waiting=2", "--max_context=2048", "--audit_every_steps=3", "--sink_tokens=16", "--recency_tokens=16", "--k_min_tokens=32"]
POLICIES = ("distilled", "distilled", "quest", "topk", "window", "full")
# What a query may mention beside spotd's metrics.
OTHERS = {"up"}
# For scrapes and rules after the load, on a machine with other work: a scrape that takes over a second is lost.
PATIENCE = 120


def words(expression: str) -> set:
    """The metrics that an expression names: identifiers outside braces, strings and keywords."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^{}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return {word for word in re.findall(r"[a-zA-Z_][\w:]*(?!\w|\s*\()", bare)
            if word not in ("and", "or", "unless", "bool", "e")}


def selectors(expression: str) -> list:
    """The vector selectors of an expression, without their ranges."""
    names = "|".join(sorted(map(re.escape, words(expression)), key=len, reverse=True))
    return re.findall(r"(?:\b(?:" + names + r")\b)(?:\{[^{}]*\})?", expression)


def family(metric: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", metric)


def panel_queries() -> list:
    """(what, expression) of every target of every board, as Grafana would send it."""
    found = []
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", "10m")
                expression = expression.replace("$model", ".*").replace("$instance", ".*")
                found.append((f"{path.stem} / {panel['title']} / {target['refId']}", expression))
    return found


def rules(kind: str) -> list:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def one_client(address: str, number: int):
    """A conversation of its own: a session that is read, forked, rewound and continued, with failures on the way."""
    policy = POLICIES[number % len(POLICIES)]
    text = f"Chapter {number}. " + "The keeper wrote the wind and the weather into the log. " * (12 + number)
    session = spotctl(address, "sessions", "create", "--policy", policy).stdout.strip()
    for _ in range(2):
        spotctl(address, "append", session, "--text", text)
        spotctl(address, "generate", session, "--text", "And then", "--max-tokens", "12", "--ignore-eos")
    fork = spotctl(address, "sessions", "fork", session).stdout.strip()
    spotctl(address, "generate", fork, "--max-tokens", "8", "--ignore-eos")
    spotctl(address, "sessions", "rewind", session, "20")
    spotctl(address, "complete", "--text", "One two three", "--max-tokens", "4", "--policy", policy)
    spotctl(address, "generate", "sessions/none", "--text", "x")
    if number % 2:
        spotctl(address, "sessions", "delete", fork)


def overload(spotd: Spotd):
    """Fills every place with a long reply, and has one more call refused."""
    command = [BIN / "spotctl", "--address", spotd.address, "complete", "--text", "x", "--max-tokens", "1000", "--ignore-eos"]
    holders = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]

    def places_taken():
        samples = parse_metrics(spotd.get("/metrics")[1])
        return metric(samples, "spotd_requests_running") + metric(samples, "spotd_requests_waiting") == 4
    try:
        wait_until(places_taken, "the places are not taken")
        refused = spotctl(spotd.address, "complete", "--text", "x", "--max-tokens", "1")
        assert "QUEUE_FULL" in refused.stderr, refused
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


class MonitoringTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = cls.enterClassContext(temporary_directory())
        cls.spotd = cls.enterClassContext(Spotd(os.environ["SPOTD_TEST_MODEL"], *FLAGS))
        cls.prometheus = cls.enterClassContext(Prometheus(pathlib.Path(cls.directory), cls.spotd.http, RULES))
        # A scrape before the load, so that its first calls are an increase.
        wait_until(lambda: cls.prometheus.query("up") == [1.0], "Prometheus does not scrape spotd")
        one_client(cls.spotd.address, 0)  # alone, so that its fork still shares KV when it goes on
        for _ in range(2):
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                list(pool.map(lambda n: one_client(cls.spotd.address, n), range(12)))
        overload(cls.spotd)
        cls.deadline = time.monotonic() + PATIENCE
        cls.page = cls.spotd.get("/metrics")[1]
        cls.exported = {line.split()[2] for line in cls.page.splitlines() if line.startswith("# TYPE ")}

    def assert_data(self, what: str, expression: str):
        """Now, or when what is there has been scraped and evaluated."""
        while not any(map(math.isfinite, values := self.prometheus.query(expression))):
            self.assertLess(time.monotonic(), self.deadline, f"{what}: only {values}\n{expression}")
            time.sleep(1)

    def test_every_panel_shows_data(self):
        queries = panel_queries()
        self.assertGreater(len(queries), 40)
        for what, expression in queries:
            with self.subTest(what):
                self.assert_data(what, expression)

    def test_every_recording_rule_records(self):
        for rule in rules("record"):
            with self.subTest(rule["record"]):
                self.assert_data("expression", rule["expr"])
                self.assert_data("record", rule["record"])

    def test_every_alert_looks_at_something(self):
        """On a healthy server an alert returns nothing; but each series that it looks at must exist."""
        for rule in rules("alert"):
            for selector in selectors(rule["expr"]):
                with self.subTest(rule["alert"], selector=selector):
                    self.assert_data(rule["alert"], f"last_over_time({selector}[10m])")

    def test_prometheus_likes_the_rules(self):
        def all_rules():
            return [rule for group in self.prometheus.get("rules")["groups"] for rule in group["rules"]]

        while any(rule["health"] == "unknown" for rule in all_rules()):
            self.assertLess(time.monotonic(), self.deadline, "rules that were not evaluated")
            time.sleep(1)
        for rule in all_rules():
            self.assertEqual(rule["health"], "ok", rule.get("lastError"))

    def test_the_load_was_a_load(self):
        samples = parse_metrics(self.page)
        for metric in ("spotd_kv_reclaims_total", "spotd_session_forks_total", "spotd_kv_copies_on_write_total",
                       "spotd_requests_rejected_total", "spotd_generation_tokens_total"):
            self.assertGreater(sum(v for name, v in samples.items() if name.startswith(metric)), 0, metric)

    def test_no_query_names_an_unknown_metric(self):
        recorded = {rule["record"] for rule in rules("record")}
        expressions = panel_queries() + [(r.get("record", r.get("alert")), r["expr"]) for r in rules("expr")]
        for what, expression in expressions:
            for metric in words(expression) - recorded - OTHERS:
                with self.subTest(what, metric=metric):
                    self.assertIn(family(metric) if family(metric) in self.exported else metric, self.exported)

    def test_every_metric_is_on_a_panel_or_says_why_not(self):
        shown = {family(word) for _, expression in panel_queries() for word in words(expression)}
        shown |= {word for _, expression in panel_queries() for word in words(expression)}
        # A recorded series shows the metrics that it is made of.
        for rule in rules("record"):
            if rule["record"] in shown:
                shown |= {family(word) for word in words(rule["expr"])} | words(rule["expr"])
        missing = self.exported - shown - set(panels.NOT_SHOWN)
        self.assertFalse(missing, "on no panel: give each one in deploy/grafana/panels.py, or a reason in NOT_SHOWN")
        self.assertFalse(set(panels.NOT_SHOWN) - self.exported, "NOT_SHOWN names metrics that do not exist")
        self.assertFalse(set(panels.NOT_SHOWN) & shown, "NOT_SHOWN names metrics that are shown")


if __name__ == "__main__":
    if "SPOTD_TEST_MODEL" not in os.environ:
        skip("SPOTD_TEST_MODEL names no model")
    if shutil.which("prometheus") is None:
        skip("prometheus is not installed")
    unittest.main(verbosity=2)
