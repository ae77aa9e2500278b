"""Tools that cost: an email is dear, a note in the CRM is cheap, a search is free.

Tools are charged in risk points here, from a budget of their own beside the one in dollars. The
second email does not fit any more, so it is not sent.
"""

import asyncio
from typing import Any

from _common import account, ledger, model
from agents import Agent, function_tool
from agents.testing import function_call
from runcycles import BudgetExceededError

from comptroller import Policy, as_client, governed_run, risk_points, usd
from comptroller.cycles import CyclesRunHooks, ToolEstimateConfig, ToolEstimateMap

CASE = "Customer 123 cannot log in. Find a fix, email it to her, note it, then email her again."


def case_resolver(sent: list[str]) -> Agent[Any]:
    @function_tool
    def search_knowledge(query: str) -> str:
        """Search the knowledge base."""
        return f"{query}: reset the password"

    @function_tool
    def update_crm(customer: int, note: str) -> str:
        """Note something about a customer."""
        return f"noted about {customer}: {note}"

    @function_tool
    def send_email(to: str, body: str) -> str:
        """Send an email."""
        sent.append(to)
        return f"sent to {to}: {body}"

    email = {"to": "ada@example.org", "body": "Please reset your password."}
    return Agent(
        name="Case resolver",
        instructions="Resolve the case with your tools, one after the other.",
        tools=[search_knowledge, update_crm, send_email],
        model=model(
            "gpt-4.1-mini",
            [function_call("search_knowledge", {"query": "login"}, call_id="1")],
            [function_call("send_email", email, call_id="2")],
            [function_call("update_crm", {"customer": 123, "note": "emailed"}, call_id="3")],
            [function_call("send_email", email, call_id="4")],
            "A second email could not be sent: the case is noted as open.",
        ),
    )


async def with_hooks(books: Any, sent: list[str]) -> None:
    hooks = CyclesRunHooks(
        client=as_client(books),
        tenant="acme",
        app="support",
        tool_estimates={
            "send_email": 50,  # risk points
            "update_crm": ToolEstimateConfig(10, action_kind="tool.crm.update"),
            "search_knowledge": 0,  # nothing is reserved
        },
        default_tool_estimate=5,  # tools that are not named
    )
    try:
        await hooks.run(case_resolver(sent), CASE)
    except BudgetExceededError as denial:
        print(f"denied: {denial}")


async def with_governed_run(books: Any, sent: list[str]) -> None:
    policy = Policy(
        tools=ToolEstimateMap(
            {
                "send_email": risk_points(50),
                "update_crm": ToolEstimateConfig(10, action_kind="tool.crm.update"),
                "search_knowledge": 0,
            },
            default_estimate=5,
        ),
        on_tool_denied="tell_model",  # not the run's end: the model is told, and goes on
    )
    scope = governed_run(case_resolver(sent), "globex", ledger=books, policy=policy, app="support")
    async with scope as run:
        result = await run(CASE)
    print(result.final_output)
    print(run.receipt)


async def main() -> None:
    budgets = [usd("0.50"), risk_points(100)]
    async with ledger(acme=budgets, globex=budgets) as books:
        for tenant, style in {"acme": with_hooks, "globex": with_governed_run}.items():
            print(f"-- {style.__name__}")
            sent: list[str] = []
            await style(books, sent)
            print(f"emails sent: {len(sent)}")
            print(await account(books, tenant))


if __name__ == "__main__":
    asyncio.run(main())
