"""Masks as annotation tools leave them: drawn ones, and files of outlines."""
