"""How the synthetic images are drawn: outlines, textures, objects and backgrounds."""
