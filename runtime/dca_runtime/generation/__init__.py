"""From a prompt to an answer: chats, what a prompt shares with the last one, sampling, guessing ahead."""
