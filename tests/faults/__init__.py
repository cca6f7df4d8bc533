"""Faults: whatever breaks at whatever byte, what is told is what happened, and nothing is left behind."""
