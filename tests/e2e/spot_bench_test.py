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
                          text=True, timeout=250, check=False)


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
        report = self.run_json("--concurrency", "3", "--duration", "3s", "--mix", "40/8@3,200/4", "--plot", str(plot))
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


class SyntheticTest(unittest.TestCase):
    """Every command on random weights, small enough for any machine: that it runs, and that its accounts add up."""

    def run_json(self, command, *arguments):
        result = subprocess.run([str(BIN / "spot-bench"), command, "--backend", "cpu", "--threads", "1", "--model", "synthetic:tiny",
                                 "--json", *arguments], capture_output=True, text=True, timeout=250, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def test_operations_of_a_layer(self):
        for command, least in (("attention", 4), ("select", 7), ("linear", 9)):
            (report,) = self.run_json(command, "--context", "2048", "--batch", "2", "--densities", "0.3", "--rows", "1", "--chunk", "65")
            self.assertGreaterEqual(len(report["rows"]), least)
            for row in report["rows"]:
                self.assertGreater(row["us"], 0)
                self.assertTrue(row.get("floor_us", 1) > 0 and row.get("density", 1) <= 1, row)

    def test_whole_steps(self):
        lines = self.run_json("decode", "--context", "2048", "--batch", "2", "--steps", "3", "--sweep", "--policy",
                              "full,topk@0.3,quest@0.3")
        self.assertEqual([(line["context"], line["policy"]) for line in lines],
                         [(context, policy) for context in (1024, 2048) for policy in ("full", "topk@0.3", "quest@0.3")])
        for full, *sparse in (lines[:3], lines[3:]):
            self.assertEqual(full["density"], 1)
            for line in sparse:
                self.assertLess(line["density"], 0.6)
                self.assertLess(line["kv_bytes"], full["kv_bytes"])

    def test_the_floor_is_measured_with_any_number_of_threads(self):
        for threads in ("1", "3"):
            (result,) = self.run_json("decode", "--context", "64", "--steps", "2", "--threads", threads)
            self.assertGreater(result["read_rate"], 0, threads)

    def test_prefill(self):
        (result,) = self.run_json("prefill", "--context", "256")
        self.assertEqual(result["tokens"], 256)
        self.assertGreater(result["gemm_flops_rate"], 0)

    def test_serving_an_engine_of_its_own(self):
        for loop in (["--concurrency", "3"], ["--rate", "20"]):
            (report,) = self.run_json("serve", "--mix", "40/8,100/4@0.5", "--duration", "2s", *loop)
            self.assertEqual(set(report["outcomes"]), {"OK"}, report["outcomes"])
            self.assertGreater(report["outcomes"]["OK"], 3)

    def test_refusals_name_the_flag(self):
        for arguments, word in ((["attention", "--model", "no-geometry"], "--model"), (["decode", "--model", "synthetic:none"], "qwen3-8b"),
                                (["decode", "--model", "synthetic:tiny", "--policy", "full@0.5"], "--policy"),
                                (["linear", "--model", "synthetic:tiny", "--rows", "1,x"], "--rows"),
                                (["attention", "--model", "synthetic:tiny", "--densities", "0"], "--densities"),
                                (["linear", "--model", "synthetic:tiny", "--chunk", "0"], "--chunk"),
                                (["prefill", "--model", "synthetic:tiny", "--repeats", "0"], "--repeats"),
                                (["serve", "--model", "m.gguf"], "--model")):
            result = subprocess.run([str(BIN / "spot-bench"), *arguments], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(result.returncode, 1, result.stdout)
            self.assertIn(word, result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
