"""What a segmenter is given, and the file that keeps it."""
