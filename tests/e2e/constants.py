"""What the end-to-end tests share: answers of a known length, and budgets of tokens."""

from agents import ModelSettings

from comptroller import Policy, tokens

ESTIMATE = 2000
"""Tokens reserved for a call; a prompt here has about 25, an answer at most `LONG`."""
LONG = 1500
"""An answer of that many tokens takes about ten seconds."""
POLICY = Policy(llm_estimate=tokens(ESTIMATE))


def exactly(count, **settings):
    """Settings under which an answer has that many tokens, whatever the model wants to say."""
    asked = {"include_usage": True, "extra_body": {"ignore_eos": True}, **settings}
    return ModelSettings(max_tokens=count, **asked)


async def spent(ledger, tenant="acme"):
    """The tokens that a tenant was charged, once nothing of its budget is locked any more."""
    open_ones = (await ledger.reservations(tenant=tenant, status="ACTIVE")).reservations
    assert open_ones == []
    [balance] = (await ledger.balances(tenant=tenant)).balances
    assert balance.reserved.amount == 0
    return balance.spent.amount
