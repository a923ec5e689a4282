"""The doctor: looks at everything that serving depends on, and says what to do. ``examine`` is the way in."""
