"""Tests of `opensshtransport.login`."""
