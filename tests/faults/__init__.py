"""Faults: whatever breaks, at any byte, the reported outcome is the real one, and nothing is left behind."""
