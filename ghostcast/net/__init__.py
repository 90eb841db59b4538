"""Sockets: interfaces, multicast joins, segmentation offloads, batched receives, pacing, drop counters."""
