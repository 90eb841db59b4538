"""Native Reed-Solomon kernels behind the interface that ``protocol.reed_solomon`` defines."""
