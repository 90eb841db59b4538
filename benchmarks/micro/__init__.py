"""How fast is each part of the hot path, and how far is it from what limits it?

    python -m benchmarks.micro [fec scatter hashing decompress write send receive] [--quick] [--json FILE]

One file each. Every figure stands beside its ceiling, measured in the same run on the same bytes: memcpy, the disk, or
a bare loop of system calls.
"""
