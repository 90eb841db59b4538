"""ghostcast: one compressed disk image to thousands of machines at once, by multicast, every byte verified."""
