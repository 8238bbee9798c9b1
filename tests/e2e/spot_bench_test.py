#!/usr/bin/env python3
"""spot-bench serve against a real server: both loops, its accounts, and what it says without a server."""
import json
import pathlib
import subprocess
import unittest
import xml.etree.ElementTree

from spotd_process import BIN, TINY_FLAGS, Spotd, metric, parse_metrics, temporary_directory, tiny_model


def bench(address, *arguments):
    return subprocess.run([str(BIN / "spot-bench"), "serve", "--address", address, *arguments], capture_output=True,
                          text=True, timeout=120, check=False)


class ServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.spotd = Spotd(tiny_model(cls.directory.name), "--max_running=2", "--max_waiting=4", *TINY_FLAGS).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.spotd.__exit__()
        cls.directory.cleanup()

    def run_json(self, *arguments):
        result = bench(self.spotd.address, "--json", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_closed_loop_accounts_for_every_token(self):
        before = metric(parse_metrics(self.spotd.get("/metrics")[1]), "spotd_generation_tokens_total")
        plot = pathlib.Path(self.directory.name) / "plot.svg"
        report = self.run_json("--concurrency", "3", "--duration", "1s", "--mix", "40/8@3,200/4", "--plot", str(plot))
        self.assertEqual(set(report["outcomes"]), {"OK"})
        requests = report["outcomes"]["OK"]
        self.assertGreater(requests, 3)
        self.assertEqual(report["peak_streams"], 3)
        self.assertEqual(report["end_to_end_seconds"]["count"], requests)
        after = metric(parse_metrics(self.spotd.get("/metrics")[1]), "spotd_generation_tokens_total")
        self.assertEqual(report["inter_token_seconds"]["count"], after - before - requests)
        self.assertGreater(report["health_seconds"]["count"], 0)
        self.assertEqual(report["health_failures"], 0)
        for name in ("time_to_first_token_seconds", "end_to_end_seconds"):
            self.assertLessEqual(report[name]["p50"], report[name]["p99"])
        xml.etree.ElementTree.parse(plot)

    def test_open_loop_beyond_capacity_sees_refusals_and_nothing_else(self):
        report = self.run_json("--rate", "3000", "--duration", "1s", "--mix", "100/40", "--connections", "2")
        self.assertLessEqual(set(report["outcomes"]), {"OK", "RESOURCE_EXHAUSTED QUEUE_FULL",
                                                       "RESOURCE_EXHAUSTED SERVER_BUSY"})
        self.assertGreater(sum(report["outcomes"].values()), 2000)
        self.assertGreater(len(report["outcomes"]), 1, "some were refused")

    def test_mistakes(self):
        self.assertIn("UNAVAILABLE", bench("127.0.0.1:1").stderr)
        self.assertIn("--mix", bench(self.spotd.address, "--mix", "512").stderr)
        full = bench(self.spotd.address, "--duration", "100ms", "--plot", "/dev/full")
        self.assertEqual(full.returncode, 1)
        self.assertIn("cannot write /dev/full", full.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
