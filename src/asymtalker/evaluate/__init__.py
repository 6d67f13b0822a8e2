"""Measure what was generated."""
