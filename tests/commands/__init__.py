"""Tests of `opensshtransport.commands`."""
