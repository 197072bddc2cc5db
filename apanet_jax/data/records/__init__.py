"""Data sets as array_record files with an index: written from a source, and read."""
