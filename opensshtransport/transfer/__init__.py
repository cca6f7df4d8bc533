"""put, get and copy: what a source means, the ways to move it, drafts, and what is told at the end.

Uses `files`, `sessions` and below.
"""
