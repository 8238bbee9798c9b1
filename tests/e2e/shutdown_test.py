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
import unittest

from spotd_process import SOURCE, TINY_FLAGS, Spotd, main_with_grpc, temporary_directory, tiny_model, wait_until

CLIENT = SOURCE / "clients/python"
CALLERS = 12
PATIENCE = 120  # seconds, for a machine with other work


class Caller(threading.Thread):
    """Calls without a pause until told to stop; `outcomes` counts status codes and reasons."""

    def __init__(self, api, address, number, stop):
        super().__init__(daemon=True)
        self.api, self.address, self.number, self.stop = api, address, number, stop
        self.outcomes = collections.Counter()

    def run(self):
        client = self.api.Client(self.address, timeout=PATIENCE)
        while not self.stop.is_set():
            if self.number % 3 == 0:  # connects anew for each call
                client.close()
                client = self.api.Client(self.address, timeout=PATIENCE)
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
        cls.model = tiny_model(cls.directory.name, 65536)

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def round(self, hold: bool) -> collections.Counter:
        """The callers' outcomes. With `hold`, a reply that nobody reads keeps the server draining until each caller met that."""
        stop = threading.Event()
        with Spotd(self.model, *TINY_FLAGS) as spotd, self.api.Client(spotd.address, timeout=PATIENCE) as client:
            callers = [Caller(self.api, spotd.address, number, stop) for number in range(CALLERS)]

            def await_all(outcome):
                wait_until(lambda: all(caller.outcomes[outcome] for caller in callers), f"not all callers had {outcome}")

            for caller in callers:
                caller.start()
            await_all("OK")
            unread = client.generate(text="a b", max_tokens=60000, ignore_eos=True) if hold else iter([None])
            next(unread)
            spotd.process.send_signal(signal.SIGTERM)
            if hold:
                await_all("UNAVAILABLE DRAINING")
                unread.close()
            self.assertEqual(spotd.process.wait(PATIENCE), 0)
            await_all("UNAVAILABLE")
            stop.set()
            for caller in callers:
                caller.join(PATIENCE)
                self.assertFalse(caller.is_alive())
        return sum((caller.outcomes for caller in callers), collections.Counter())

    def test_every_call_is_answered_or_unavailable(self):
        total = collections.Counter()
        for hold in (False, True, False, True, False):
            total += self.round(hold)
        others = {outcome: count for outcome, count in total.items()
                  if outcome not in ("OK", "UNAVAILABLE DRAINING", "UNAVAILABLE")}
        self.assertEqual(others, {}, total)
        print(dict(total))


if __name__ == "__main__":
    main_with_grpc()
