"""What this machine has: probes, and what follows from them."""
