"""`comptroller serve` as a child of the tests, and what is in its ledger."""

import json
import re
import signal
from contextlib import contextmanager

import attrs

from support.cli import done, environment, start
from support.subprocesses import Python


@attrs.frozen
class Served:
    """A server that runs: its address, its process, and what it has said so far."""

    url: str
    child: object
    said: str


@contextmanager
def served(ledger, *options, program=Python, **variables):
    """A server of `ledger` on a free port, until the block ends; it has to end gracefully."""
    words = ("serve", "--ledger", str(ledger), "--port", "0", *options)
    with start(*words, program=program, env=environment(**variables)) as child:
        try:
            said = ""
            while not (found := re.search(r"at (https?://\S+)", said)):
                line = child.stdout.readline()
                assert line, (said, child.communicate(timeout=60))
                said += line
            yield Served(found[1], child, said)
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                child.communicate(timeout=60)
            assert child.returncode == 0
        finally:
            child.kill()


def key_of(tenant, ledger):
    """A new API key."""
    return json.loads(done("key", "create", tenant, "--json", "--ledger", str(ledger)))["key"]
