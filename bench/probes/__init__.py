"""What is measured inside a process of its own; each prints JSON."""
