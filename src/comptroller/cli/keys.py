"""What an operator does with API keys: create, list and revoke those of an embedded ledger."""

from datetime import UTC, datetime

from comptroller.cli import output
from comptroller.cli.budgets import require_embedded
from comptroller.cli.exit_codes import shown_before
from comptroller.cli.tables import Table
from comptroller.errors import ComptrollerError
from comptroller.ledger.api_keys import ApiKey, create_api_key
from comptroller.ledger.embedded.base import wall_clock
from comptroller.ledger.factory import open_keys
from comptroller.ledger.interface import EmbeddedLedger, Ledger


async def create(ledger: Ledger, tenant: str, note: str, as_json: bool) -> None:
    """Make a key and show it, this once. The key alone is on stdout, for scripts."""
    text, key = create_api_key(tenant, wall_clock(), note)
    with open_keys(_durable(ledger)) as keys:
        with shown_before("no key was made"):
            if as_json:
                output.write_json({**_plain(key), "key": text})
            else:
                output.write_text(text)
        try:
            keys.add(key)
        except Exception as error:
            raise ComptrollerError(
                f"key {key.key_id} could not be kept and opens nothing: {error}"
            ) from error
    if as_json:
        return
    output.write(
        f"this is the only time that key {key.key_id} of tenant {key.tenant} is shown",
        stderr=True,
    )


async def show(ledger: Ledger, tenant: str | None, as_json: bool, wide: bool) -> None:
    """Every key, or one tenant's, by its id."""
    with open_keys(_durable(ledger)) as keys:
        found = [key for key in keys.all() if tenant is None or key.tenant == tenant.lower()]
    if as_json:
        output.write_json([_plain(key) for key in found])
    elif found:
        facts = ("created (UTC)", "state", "note")
        made_of = Table("key", "tenant", *facts, prose=facts)
        for key in found:
            state = "active" if key.revoked_ms is None else f"revoked {_moment(key.revoked_ms)}"
            made_of.add_row(
                key.key_id, key.tenant, _moment(key.created_ms), state, output.plain(key.note)
            )
        output.write(made_of, wide=wide)
    else:
        whose = f"tenant {tenant}" if tenant else "anybody"
        output.write(f"no API key for {whose} in {ledger.name}")


async def revoke(ledger: Ledger, key_id: str, as_json: bool) -> None:
    """End a key."""
    with open_keys(_durable(ledger)) as keys:
        key = keys.revoke(key_id, wall_clock())
    if as_json:
        output.write_json(_plain(key))
    else:
        output.write(f"key {key.key_id} of tenant {key.tenant} opens nothing any more")


def _durable(ledger: Ledger) -> EmbeddedLedger:
    embedded = require_embedded(ledger)
    if ledger.name == "memory:":
        raise ValueError("memory: is gone when this command ends: name a file with --ledger")
    return embedded


def _plain(key: ApiKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "created_at_ms": key.created_ms,
        "revoked_at_ms": key.revoked_ms,
        "note": key.note,
    }


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
