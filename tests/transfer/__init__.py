"""Tests of `opensshtransport.transfer`."""
