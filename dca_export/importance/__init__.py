"""Importance of a model's columns for a text: llama.cpp's imatrix files, read and written."""
