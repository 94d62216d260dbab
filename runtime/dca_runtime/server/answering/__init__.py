"""From tokens to what a client reads: thoughts, tool calls, JSON, events."""
