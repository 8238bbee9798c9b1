#!/usr/bin/env python3
"""A server under load, with spot-bench as its clients: thousands of streams, more than it can do, and SIGTERM. Rates are not
judged closely, because the machine that runs the tests may be busy; docs/performance.md has the measurements."""
import json
import signal
import subprocess
import time
import unittest

from spotd_process import BIN, TINY_FLAGS, Spotd, temporary_directory, tiny_model


def resident_mib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


class LoadTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        cls.model = tiny_model(cls.directory.name, 4096)

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def start_load(self, spotd, *arguments):
        return subprocess.Popen([str(BIN / "spot-bench"), "serve", "--address", spotd.address, "--json", *arguments],
                                stdout=subprocess.PIPE, text=True)

    def report(self, load):
        output, _ = load.communicate(timeout=200)
        self.assertEqual(load.returncode, 0)
        return json.loads(output)

    def test_two_thousand_streams(self):
        with Spotd(self.model, "--max_waiting=4096", *TINY_FLAGS) as spotd:
            load = self.start_load(spotd, "--concurrency", "2000", "--duration", "1s", "--grace", "150s", "--mix",
                                   "60/20@3,400/20", "--connections", "20")
            peak = 0
            while load.poll() is None:
                peak = max(peak, resident_mib(spotd.process.pid))
                time.sleep(0.1)
            report = self.report(load)
            self.assertEqual(set(report["outcomes"]), {"OK"})
            self.assertGreaterEqual(report["outcomes"]["OK"], 2000)
            self.assertEqual(report["peak_streams"], 2000)
            self.assertEqual(report["health_failures"], 0)
            self.assertLess(peak, 64 + 200, "MiB: the KV cache and a bounded rest")

    def test_overload_refuses_and_goes_on(self):
        with Spotd(self.model, "--max_waiting=32", *TINY_FLAGS) as spotd:
            capacity = self.report(self.start_load(spotd, "--concurrency", "64", "--duration", "3s", "--mix", "100/40"))
            rate = str(3 * capacity["requests_per_second"])
            over = self.report(self.start_load(spotd, "--rate", rate, "--duration", "4s", "--mix", "100/40"))
            self.assertLessEqual(set(over["outcomes"]), {"OK", "RESOURCE_EXHAUSTED QUEUE_FULL",
                                                         "RESOURCE_EXHAUSTED SERVER_BUSY"})
            self.assertIn("RESOURCE_EXHAUSTED QUEUE_FULL", over["outcomes"])
            self.assertGreater(over["tokens_per_second"], 0.5 * capacity["tokens_per_second"])
            self.assertEqual(over["health_failures"], 0)

    def test_sigterm_fails_no_stream(self):
        with Spotd(self.model, "--max_waiting=512", "--drain_timeout=100s", *TINY_FLAGS) as spotd:
            load = self.start_load(spotd, "--concurrency", "200", "--duration", "1s", "--grace", "100s", "--mix", "200/600")
            time.sleep(1.5)
            spotd.process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            report = self.report(load)
            self.assertEqual(spotd.process.wait(100), 0)
            self.assertGreater(time.monotonic() - sent, 0.3, "it came while streams ran")
            self.assertEqual(set(report["outcomes"]), {"OK"})
            self.assertGreaterEqual(report["outcomes"]["OK"], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
