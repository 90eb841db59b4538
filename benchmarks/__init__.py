"""Measurements of ghostcast, beside its peers and its ceilings; never shipped. README.md says how to run them."""
