"""File operations, one request each.

`queries` only read and may be repeated; `changes` are never sent twice.

Uses `sessions` and below.
"""
