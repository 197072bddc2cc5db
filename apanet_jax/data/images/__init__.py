"""Image files that people have: found, opened and decoded to upright pixels."""
