"""Tests of `opensshtransport.cli`."""
