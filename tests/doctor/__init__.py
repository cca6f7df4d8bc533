"""Tests of `opensshtransport.doctor`."""
