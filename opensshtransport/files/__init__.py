"""File operations, one request each.

`queries` only look and may be asked again; `changes` are never asked twice.

Uses `sessions` and below.
"""
