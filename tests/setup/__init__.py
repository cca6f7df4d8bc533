"""Tests of `opensshtransport.setup`."""
