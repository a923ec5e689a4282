"""``/admin``: what the server does, and changing it."""
