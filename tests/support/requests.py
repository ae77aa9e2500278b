"""Requests, written short: those of the shipped contract."""

from comptroller.testing.contract.asking import (
    ACTION,
    IF_AVAILABLE,
    OVERDRAFT,
    REJECT,
    amount,
    asking,
    balance_of,
    committing,
    counts,
    deciding,
    event,
    extending,
    releasing,
)

__all__ = [
    "ACTION",
    "IF_AVAILABLE",
    "OVERDRAFT",
    "REJECT",
    "amount",
    "asking",
    "balance_of",
    "committing",
    "counts",
    "deciding",
    "event",
    "extending",
    "releasing",
]
