"""Tests of the converter: sources, tokenizers, checks."""
