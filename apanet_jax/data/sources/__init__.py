"""Where images and label maps come from."""
