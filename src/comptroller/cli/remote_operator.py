"""A server's budgets, for who has its operator's key: the acts of an embedded ledger, over HTTP."""

from typing import Any, Unpack

import attrs
import httpx
from runcycles import Amount, Balance, Unit

from comptroller.core.budgets import Terms, shares
from comptroller.core.scopes import parse_scope
from comptroller.errors import LedgerRefused, LedgerUnreachable
from comptroller.ledger.models import Budget

_BUDGETS = "/v1/admin/budgets"
_SECONDS = 10.0


@attrs.frozen
class RemoteOperator:
    """Sets, funds, freezes and lists the budgets of a server. `key` is its operator's.

    Raises, all of it: LedgerRefused with what the server says; LedgerUnreachable without an answer.
    """

    name: str
    key: str = attrs.field(repr=False)

    async def set_budget(self, scope: str, allocated: Amount, **terms: Unpack[Terms]) -> Balance:
        """As `EmbeddedLedger.set_budget`."""
        unit = allocated.unit.value
        body: dict[str, Any] = {"scope": parse_scope(scope), "unit": unit, **terms}
        body["allocated"] = allocated.model_dump(mode="json")
        if "overdraft_limit" in terms:
            body["overdraft_limit"] = {"unit": unit, "amount": terms["overdraft_limit"]}
        if "alerts" in terms:
            body["alerts"] = [f"{share}%" for share in shares(terms["alerts"])]
        if caps := terms.get("caps"):
            body["caps"] = caps.model_dump(mode="json", exclude_none=True)
        return _budget(await self._send("POST", _BUDGETS, json=body))

    async def fund(self, scope: str, credit: Amount) -> Balance:
        """As `EmbeddedLedger.fund`."""
        body = {"operation": "CREDIT", "amount": credit.model_dump(mode="json")}
        return _budget(await self._act("fund", scope, credit.unit.value, json=body))

    async def freeze(self, scope: str, unit: Unit | None = None) -> None:
        """As `EmbeddedLedger.freeze`."""
        await self._each("freeze", scope, unit)

    async def unfreeze(self, scope: str, unit: Unit | None = None) -> None:
        """As `EmbeddedLedger.unfreeze`."""
        await self._each("unfreeze", scope, unit)

    async def close_budget(self, scope: str) -> None:
        """As `EmbeddedLedger.close_budget`; all units of the scope are closed by one request."""
        path = parse_scope(scope)
        (unit, *_) = await self._units(path)
        await self._act("close", path, unit.value)

    async def budgets(self) -> list[Balance]:
        """As `EmbeddedLedger.budgets`."""
        return [_budget(row) for row in (await self._send("GET", _BUDGETS))["ledgers"]]

    async def _each(self, act: str, scope: str, unit: Unit | None) -> None:
        """`act` in `unit`, or in every one that `scope` has a budget in."""
        path = parse_scope(scope)
        for each in [unit] if unit else await self._units(path):
            await self._act(act, path, each.value)

    async def _units(self, path: str) -> list[Unit]:
        """Return the units that a scope has budgets in, one at least."""
        units = [one.remaining.unit for one in await self.budgets() if one.scope_path == path]
        if not units:
            raise LedgerRefused(
                f"no budget for {path} at {self.name}: set one with:"
                f" comptroller budget set {path} 10usd --ledger {self.name}"
            )
        return units

    async def _act(self, act: str, scope: str, unit: str, **body: Any) -> Any:
        named = {"scope": parse_scope(scope), "unit": unit}
        return await self._send("POST", f"{_BUDGETS}/{act}", params=named, **body)

    async def _send(self, method: str, path: str, **request: Any) -> Any:
        headers = {"X-Admin-API-Key": self.key}
        try:
            async with httpx.AsyncClient(headers=headers, timeout=_SECONDS) as client:
                answer = await client.request(method, f"{self.name}{path}", **request)
            said = answer.json()
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise LedgerUnreachable(f"{self.name} does not answer: {why}", status=-1) from None
        except ValueError:
            said = None
        if answer.is_success and isinstance(said, dict):
            return said
        text = said.get("message") if isinstance(said, dict) else "it serves no budgets there"
        raise LedgerRefused(
            f"{self.name}: {text} ({answer.status_code})", status=answer.status_code
        )


def _budget(said: dict[str, Any]) -> Balance:
    known = {name: value for name, value in said.items() if name in Budget.model_fields}
    status = said.get("status")
    states = {"frozen": status == "FROZEN", "closed": status == "CLOSED"}
    return Budget.model_validate({**known, **states})
