"""Tests of `opensshtransport.prompts`."""
