"""Adaptation to imagery without labels (METHODS.md sections 3 and 4): what is trained, what is minimised, and what is written."""
