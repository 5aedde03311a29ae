"""The work itself: bundles, compile, parity, batch pipeline. A pure library."""
