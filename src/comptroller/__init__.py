"""Comptroller: budgets that hold for runs of the OpenAI Agents SDK."""
