"""Measuring a network: what it carries, to how many, and whether multicast works on it at all."""
