"""The receiving engine: ingest, assembly, chunk writing, targets."""
