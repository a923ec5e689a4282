"""The response cache: complete answers to deterministic requests, in a SQLite file of their own."""
