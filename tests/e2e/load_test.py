#!/usr/bin/env python3
"""A server under load, with spot-bench as its clients: thousands of streams, more than it can do, and SIGTERM. Rates are not
judged, because the machine that runs the tests may be busy; docs/performance.md has the measurements."""
import json
import signal
import subprocess
import time
import unittest

from spotd_process import BIN, TINY_FLAGS, Spotd, metric, parse_metrics, temporary_directory, tiny_model, wait_until


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

    def loaded(self, spotd, *arguments):
        """(report, seconds of CPU time that the server took) of a load; CPU time is its own, whatever else the machine does."""
        def cpu_seconds():
            return metric(parse_metrics(spotd.get("/metrics")[1]), "process_cpu_seconds_total")

        before = cpu_seconds()
        report = self.report(self.start_load(spotd, *arguments, "--grace", "150s", "--mix", "100/40"))
        return report, cpu_seconds() - before

    def test_overload_refuses_and_goes_on(self):
        with Spotd(self.model, "--max_running=16", "--max_waiting=32", *TINY_FLAGS) as spotd:
            capacity, seconds = self.loaded(spotd, "--concurrency", "48", "--duration", "3s")
            self.assertEqual(set(capacity["outcomes"]), {"OK"})
            answer = seconds / capacity["outcomes"]["OK"]
            # Its engine is one thread: three seconds of work a second are more than it can do on any machine.
            over, seconds = self.loaded(spotd, "--rate", str(3 / answer), "--duration", "4s")
            self.assertLessEqual(set(over["outcomes"]), {"OK", "RESOURCE_EXHAUSTED QUEUE_FULL",
                                                         "RESOURCE_EXHAUSTED SERVER_BUSY"})
            self.assertIn("RESOURCE_EXHAUSTED QUEUE_FULL", over["outcomes"])
            answered = over["outcomes"]["OK"]
            self.assertGreaterEqual(answered, 48, "at least what had a place at once")
            refusal = (seconds - answered * answer) / (sum(over["outcomes"].values()) - answered)
            self.assertLess(refusal, 0.25 * answer, "refusing keeps the server from answering")
            self.assertEqual(over["health_failures"], 0)

    def test_sigterm_fails_no_stream(self):
        with Spotd(self.model, "--max_waiting=512", "--drain_timeout=150s", *TINY_FLAGS) as spotd:
            # Too short for a second round: after these streams come no others, which would be refused.
            load = self.start_load(spotd, "--concurrency", "200", "--duration", "1ms", "--grace", "150s", "--mix", "200/600")

            def arrived():
                samples = parse_metrics(spotd.get("/metrics")[1])
                done = metric(samples, "spotd_requests_total", method="Generate", code="OK")
                return done + metric(samples, "spotd_requests_running") + metric(samples, "spotd_requests_waiting") >= 200
            wait_until(arrived, "not all streams are there")
            spotd.process.send_signal(signal.SIGTERM)
            report = self.report(load)
            self.assertEqual(spotd.process.wait(100), 0)
            self.assertEqual(set(report["outcomes"]), {"OK"})
            self.assertGreaterEqual(report["outcomes"]["OK"], 200)
        draining = next(i for i, line in enumerate(spotd.log) if '"msg":"draining"' in line)
        ended = [line for line in spotd.log[draining:] if '"method":"Generate"' in line]
        self.assertGreater(len(ended), 0, "it came while streams ran")


if __name__ == "__main__":
    unittest.main(verbosity=2)
