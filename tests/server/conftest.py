"""Ledgers to test."""

from support.ledger_fixtures import clock, embedded, ledger, reopened

__all__ = ["clock", "embedded", "ledger", "reopened"]
