"""Clocks that jump to the next timer, for asyncio and trio."""
