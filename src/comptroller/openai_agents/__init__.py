"""The seam: callbacks of the OpenAI Agents SDK become messages to actors."""
