"""Rationales for training rows, written and checked by a teacher: `python -m evaluation.rationales`."""
