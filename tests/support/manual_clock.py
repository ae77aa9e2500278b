"""A clock that tests move: that of the shipped contract."""

from comptroller.testing.contract import Clock

__all__ = ["Clock"]
