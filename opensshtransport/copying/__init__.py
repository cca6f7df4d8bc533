"""Copies between places in scp's notation: what `ossh cp` and `ossh sync` do.

Uses `Transport`, so it is above it; nothing here prints, the caller's `Listener` is told.
"""
