"""Fixtures that any test may ask for."""

from tests.support.postgres import postgres

__all__ = ["postgres"]
