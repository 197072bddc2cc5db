"""Which positions of an image are of a class, by comparing their features with the supports'."""
