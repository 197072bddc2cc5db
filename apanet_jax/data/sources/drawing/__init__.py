"""How the synthetic pictures are drawn: outlines, textures, things and backgrounds."""
