"""The engine: one process for each loaded model. ARCHITECTURE.md tells the life of a request through it."""
