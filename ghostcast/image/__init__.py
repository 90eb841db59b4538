"""Image files: create, read, verify, extract."""
