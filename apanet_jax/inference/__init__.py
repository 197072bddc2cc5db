"""Masks of new images from a few supports, and trained heads as files for others."""
