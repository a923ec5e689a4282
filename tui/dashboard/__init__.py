"""What the dashboard shows, as functions of a snapshot."""
