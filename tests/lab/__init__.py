"""The real-kernel ring: network namespaces, real multicast, real loss, real disks."""
