"""Texts that questions are about, out of what they come in: text, Markdown, HTML, PDF, source trees."""
