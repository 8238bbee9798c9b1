#!/usr/bin/env python3
"""Calls that arrive while the server shuts down, up to the moment when its port is gone: each is answered or gets
UNAVAILABLE, which clients may retry elsewhere, and none gets CANCELLED."""
import collections
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import unittest

from spotd_process import SOURCE, TINY_FLAGS, Spotd, main_with_grpc, temporary_directory, tiny_model

CLIENT = SOURCE / "clients/python"
CALLERS = 12


class Caller(threading.Thread):
    """Calls without a pause until told to stop; `outcomes` counts status codes and reasons."""

    def __init__(self, api, address, number, stop):
        super().__init__(daemon=True)
        self.api, self.address, self.number, self.stop = api, address, number, stop
        self.outcomes = collections.Counter()

    def run(self):
        client = self.api.Client(self.address, timeout=20)
        while not self.stop.is_set():
            if self.number % 3 == 0:  # connects anew for each call
                client.close()
                client = self.api.Client(self.address, timeout=20)
            try:
                if self.number % 2:
                    client.complete(text="a b", max_tokens=3, ignore_eos=True)
                else:
                    session = client.create_session()
                    client.append_text(session.name, "some text")
                    list(client.generate(session.name, max_tokens=2, ignore_eos=True))
                    client.delete_session(session.name)
                self.outcomes["OK"] += 1
            except self.api.SpotdError as error:
                self.outcomes[f"{error.code.name} {error.reason}".strip()] += 1
        client.close()


class ShutdownTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = temporary_directory()
        stubs = pathlib.Path(cls.directory.name) / "stubs"
        subprocess.run([CLIENT / "generate_stubs", stubs], check=True, env=dict(os.environ, PYTHON=sys.executable))
        sys.path[:0] = [str(stubs), str(CLIENT)]
        import spotd_client
        cls.api = spotd_client
        cls.model = tiny_model(cls.directory.name)

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def test_every_call_is_answered_or_unavailable(self):
        total = collections.Counter()
        for _ in range(5):
            stop = threading.Event()
            with Spotd(self.model, *TINY_FLAGS) as spotd:
                callers = [Caller(self.api, spotd.address, number, stop) for number in range(CALLERS)]
                for caller in callers:
                    caller.start()
                time.sleep(0.7)
                spotd.process.send_signal(signal.SIGTERM)
                self.assertEqual(spotd.process.wait(30), 0)
                time.sleep(0.2)
                stop.set()
                for caller in callers:
                    caller.join(30)
                    total += caller.outcomes
        self.assertGreater(total["OK"], 0)
        self.assertGreater(total["UNAVAILABLE DRAINING"], 0, "nobody called while it drained")
        others = {outcome: count for outcome, count in total.items()
                  if outcome not in ("OK", "UNAVAILABLE DRAINING", "UNAVAILABLE")}
        self.assertEqual(others, {}, total)
        print(dict(total))


if __name__ == "__main__":
    main_with_grpc()
