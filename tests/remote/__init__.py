"""Tests of `opensshtransport.remote`."""
