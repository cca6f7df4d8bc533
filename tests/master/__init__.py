"""Tests of `opensshtransport.master`."""
