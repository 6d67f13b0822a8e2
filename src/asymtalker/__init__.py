"""AsymTalker: identity-consistent talking-head video of any length, from one portrait and a voice."""

__version__ = "0.1.0"
