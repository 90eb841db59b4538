"""The sending engine."""
