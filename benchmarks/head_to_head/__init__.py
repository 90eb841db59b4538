"""How long until everybody has the copy: ghostcast beside udpcast, UFTP and plain TCP, same bytes, same lab?

    python -m benchmarks.head_to_head [--size 1GB] [--rounds 3] [--receivers 1] [--json FILE]     (as root)
    python -m benchmarks.head_to_head --matrix quick|full|flat|sessions --json FILE

Knows the lab's networks and every tool's command line; must not know ghostcast's insides: it measures what a user
would. The invariants: all tools are timed by the same clock between the same two moments, all copies are verified
against the source by a digest that none of the tools computes, and a run that hangs, lies or fails is a failure in the
results, never a figure. What is measured, and what is in whose favour: ../README.md.
"""
