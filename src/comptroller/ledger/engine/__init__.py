"""The protocol engine of the embedded ledgers, synchronous: one `Book` over a `Store`.

A request goes through these layers, top down:

    admit, settle, read, operate    what each request of the protocol does, in its order of checks
    answers, refusals               accounts and denials → answers of the protocol, typed errors
    idempotency                     keys, fingerprints: a request sent again is answered again
    records                         what a ledger keeps, and the `Store` that keeps it

Time is passed in (`now_ms`, epoch milliseconds). Every check comes before the first change, so a
refusal leaves the store as it was. `settle.sweep` comes before any other call of a batch.
"""
