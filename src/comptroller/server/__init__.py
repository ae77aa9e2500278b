"""Any ledger over HTTP: the Cycles protocol v0.1.25 as a plain ASGI callable.

application    what every request goes through: route, key, rate, body, ledger; the answer, the log
runtime        the protocol's plane: reserve, commit, release, extend, decide, events, the readings
operator       budgets over HTTP, for who has the admin key
routing        paths and methods → what answers them
callers        whose request it is: keys of tenants, and the operator's
exchange       one request: its ids, its trace, its caller
replies        answers and errors as the protocol has them
lanes          long work off the event loop, one at a time for each caller
rates          how often one tenant may ask
metrics        what Prometheus is told
asgi           reading and writing, message by message
"""

from comptroller.server.application import serve_ledger
from comptroller.server.asgi import MAX_BODY_BYTES, Application, Message, Receive, Send

__all__ = ["MAX_BODY_BYTES", "Application", "Message", "Receive", "Send", "serve_ledger"]
