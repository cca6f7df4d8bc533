"""Tests of `opensshtransport.local`."""
