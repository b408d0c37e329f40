"""Refinements of METHODS.md sections 1 and 2: pure functions on tokens, and what the decoder looked at.

Shapes: B rows (images, or images x prompts), N = h·w tokens in row-major order, C channels, Q queries, L decoder layers.
Strength 0 gives back the very tensor that came; what comes is never written to; no row depends on another.
"""
