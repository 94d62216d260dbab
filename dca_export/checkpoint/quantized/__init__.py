"""Checkpoints that were quantised elsewhere: one file a format, and the table that knows them (table.py)."""
