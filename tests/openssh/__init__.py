"""Tests of `opensshtransport.openssh`."""
