"""The terminal UI: chat, switch models, watch the machine. It knows the server by its HTTP API only."""
