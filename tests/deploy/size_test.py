#!/usr/bin/env python3
"""deploy/size against a running spotd, and against what docs/operations.md shows."""
import importlib.machinery
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/e2e"))

from spotd_process import Spotd, metric, parse_metrics, temporary_directory, tiny_model  # noqa: E402


def load_size():
    loader = importlib.machinery.SourceFileLoader("size", str(SOURCE / "deploy/size"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("size", loader))
    loader.exec_module(module)
    return module


size = load_size()


def result(geometry: str = "qwen3-8b", **changes) -> dict:
    flags = {"context": 131072, "sessions": 3, "running": 3, "density": 0.05} | changes
    options = size.parse(["--geometry", geometry, *(f"--{name}={value}" for name, value in flags.items())])
    return size.size(dict(size.GEOMETRIES[geometry]), options)


class SizeTest(unittest.TestCase):
    def test_kv_of_a_running_spotd(self):
        with temporary_directory() as directory:
            model = pathlib.Path(tiny_model(directory))
            for block_tokens in (16, 32):
                with Spotd(str(model), "--kv_memory=16MiB", "--threads=1", f"--block_tokens={block_tokens}") as spotd:
                    samples = parse_metrics(spotd.get("/metrics")[1])
                options = size.parse(["--model", str(model), "--context=512", "--sessions=1", "--selector_keys=none",
                                      f"--block_tokens={block_tokens}"])
                expected = size.size(size.load_config(model), options)["kv_block_bytes"]
                self.assertEqual(metric(samples, "spotd_kv_block_bytes"), expected)
                self.assertEqual(metric(samples, "spotd_kv_blocks"), (16 << 20) // expected)

    def test_the_selector_keys_of_a_real_model(self):
        # docs/performance.md: SmolLM2 with its selector has blocks of 408,960 bytes.
        self.assertEqual(result("smollm2-135m", context=8192)["kv_block_bytes"], 408_960)

    def test_the_measured_step_comes_out(self):
        page = (SOURCE / "docs/performance-gpu.md").read_text()
        sparse, dense = map(float, re.search(r"(?m)^\| whole step, 128K, B=3, 5% \|.*\| ([0-9.]+) against ([0-9.]+) ms", page).groups())
        self.assertIn(f"{sparse} ms at 128K, batch 3, 5 %", (SOURCE / "deploy/size").read_text())
        r = result()
        self.assertAlmostEqual(3e3 / r["expected_tokens_per_second"], sparse, delta=0.02 * sparse)
        self.assertAlmostEqual(3e3 / r["dense_floor_tokens_per_second"], dense, delta=0.02 * dense)

    def test_the_bytes_of_measured_steps_on_a_cpu(self):
        """docs/performance.md counted what SmolLM2's steps at 8000 tokens read."""
        page = (SOURCE / "docs/performance.md").read_text()
        rows = re.findall(r"(?m)^\| 8000, ([a-z]+)[^|]*\| ([0-9.]+) ms \| ([0-9.]+) MB \+ ([0-9.]+) MB \| (\d+)% of (\d+) GB/s \|$", page)
        self.assertEqual([row[0] for row in rows], ["full", "quest", "distilled"])
        density = {"full": 1, "quest": 0.1, "distilled": float(re.search(r"distilled at p 0.8 \(density ([0-9.]+)\)", page).group(1))}
        for policy, *numbers in rows:
            step, weights, kv, share, rate = map(float, numbers)
            with self.subTest(policy):
                keys = "int4" if policy == "distilled" else "none"
                r = result("smollm2-135m", context=8000, sessions=1, running=1, density=density[policy], selector_keys=keys,
                           weights_gib=weights * 1e6 / 2**30, read_gbps=rate, efficiency=share / 100)
                floor = r["dense_floor_tokens_per_second" if policy == "full" else "sparse_floor_tokens_per_second"]
                self.assertAlmostEqual((rate * 1e9 / floor) / 1e6 - weights, kv, delta=0.01 * kv)
                self.assertAlmostEqual(1e3 / (floor * share / 100), step, delta=0.04 * step)

    def test_more_costs_more(self):
        self.assertGreater(result(context=262144)["kv_bytes_per_session"], result()["kv_bytes_per_session"])
        self.assertLess(result(density=0.5)["expected_tokens_per_second"], result()["expected_tokens_per_second"])
        self.assertGreater(result(running=6)["expected_tokens_per_second"], result()["expected_tokens_per_second"])
        self.assertGreater(result(selector_keys="bf16")["kv_block_bytes"], result()["kv_block_bytes"])
        self.assertEqual([result(sessions=n)["cards"] for n in (3, 4, 7)], [1, 2, 3])
        self.assertIsNone(result(card_gib=16)["cards"])

    def test_the_example_of_the_guide(self):
        guide = (SOURCE / "docs/operations.md").read_text()
        command, shown = re.search(r"    \$ (deploy/size [^\n]*)\n((?:    [^\n]*\n)+)", guide).groups()
        printed = subprocess.run(command.split(), cwd=SOURCE, capture_output=True, text=True, check=True).stdout
        self.assertEqual(printed, re.sub(r"(?m)^    ", "", shown))

    def test_json(self):
        flags = ["--geometry=llama3-8b", "--context=8192", "--sessions=2", "--json"]
        output = subprocess.run([SOURCE / "deploy/size", *flags], capture_output=True, text=True, check=True).stdout
        self.assertEqual(json.loads(output)["kv_block_bytes"], 32 * (16 * (4096 + 72) + 4096))


if __name__ == "__main__":
    unittest.main(verbosity=2)
