"""At which sizes, and in which squares, an image is seen."""
