"""The protocol of scoring, and the fast way to the same scores."""
