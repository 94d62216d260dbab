"""What generating stands on: control tokens, what a prompt shares with the last one, guessing ahead."""
