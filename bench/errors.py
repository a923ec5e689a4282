"""What stops a benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """Says what is wrong and what to do about it; shown without a trace."""


class NoAnswer(BenchError):
    """A server took longer than it may."""
