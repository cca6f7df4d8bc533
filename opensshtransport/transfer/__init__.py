"""put and get: what a source means, the ways to move it, drafts, and what is reported at the end.

Uses `files`, `sessions` and below.
"""
