"""Partition tables and file systems: what is used on a disk, and how a restored disk is fitted to its new size."""
