"""The tests, ring by ring: see ``tests/README.md``. Never shipped (``pyproject.toml`` lists what is)."""
