"""What was found in an image, as masks."""
