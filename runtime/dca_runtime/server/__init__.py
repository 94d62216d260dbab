"""An HTTP server for one model: OpenAI's and Anthropic's protocols over one engine (docs/server.md)."""
