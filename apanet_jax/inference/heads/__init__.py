"""Trained heads: those that come with the package, opened and exported ones."""
