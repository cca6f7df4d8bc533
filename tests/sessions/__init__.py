"""Tests of `opensshtransport.sessions`."""
