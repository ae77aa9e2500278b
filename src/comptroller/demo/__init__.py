"""`comptroller demo`: several tenants' agents at once, and a ledger that must agree with them.

`scripted` plays the models, `cast` has the agents, their tools and their budgets, `audit` compares
the ledger with what models and tools counted themselves, `play` runs and shows it all.
"""
