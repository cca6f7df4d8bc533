"""Tests of `opensshtransport.aiida`."""
