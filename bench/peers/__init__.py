"""The servers that are measured, each behind the same interface."""
