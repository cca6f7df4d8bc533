"""Tests of `opensshtransport.files`."""
