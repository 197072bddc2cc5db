"""From a config to runs: made, trained, scored, reported and verified."""
