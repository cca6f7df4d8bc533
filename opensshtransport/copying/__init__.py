"""Copies between places in scp's notation: what `ossh cp` and `ossh sync` do.

Uses `Transport`, so it is above it. Nothing here prints: the caller passes a `Listener`.
"""
