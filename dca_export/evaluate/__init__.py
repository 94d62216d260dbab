"""Experiments on a model: how far it can be taken, and with which settings."""
