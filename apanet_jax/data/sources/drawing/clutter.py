"""Drawings of what belongs to no class, but looks as much like an object as those that do."""

import numpy as np

from apanet_jax.data.sources.drawing.brush import Part, Parts, flat, surface
from apanet_jax.data.sources.drawing.colours import Rng, chance, colour, pick, tinted
from apanet_jax.data.sources.drawing.outlines import (
    box,
    curve,
    ellipse,
    spline,
    stroke,
    turned,
)


def stone(rng: Rng) -> Parts:
    """A stone, or a heap of three."""
    parts = []
    for i in range(pick(rng, (1, 1, 3))):
        angles = np.linspace(0, 2 * np.pi, 9)[:-1]
        reach = rng.uniform(0.6, 1.0, 8)[:, None]
        outline = np.stack([np.cos(angles), 0.75 * np.sin(angles)], 1) * reach
        shade = colour(rng, "grey", "brown", "beige", free=0.25)
        skin = surface(rng, shade, "mottle", "grain", "cloud", "cells", relief=0.9)
        parts.append(Part(spline(outline) * (1 - 0.2 * i) + (0.8 * i, 0.1 * i), skin))
    return parts


def leaf(rng: Rng) -> Parts:
    """A leaf with its veins."""
    wide = rng.uniform(0.25, 0.55)
    shade = colour(rng, "green", "lime", "orange", "brown", free=0.2)
    blade = spline(
        [(0, -1), (wide, -0.3), (0.7 * wide, 0.5), (0, 0.8), (-wide, 0.4), (-wide, -0.4)]
    )
    vein = flat(tinted(shade, rng.choice([-0.4, 0.35])), 0.0)
    parts = [Part(blade, surface(rng, shade, "", "mottle", "pinstripes"))]
    parts.append(Part(stroke([(0, -0.9), (0, 1.15)], (0.02, 0.08)), vein))
    for y in (-0.5, -0.1, 0.3):
        for side in (-1, 1):
            parts.append(Part(stroke([(0, y + 0.2), (0.7 * wide * side, y)], 0.03), vein))
    return parts


def crate(rng: Rng) -> Parts:
    """A box seen from a corner."""
    shade = colour(rng, "brown", "beige", "blue", "red")
    front = surface(rng, shade, "", "planks", "wood", "checker", "stripes", relief=0.2)
    tall, deep = rng.uniform(0.6, 1.3), rng.uniform(0.2, 0.6)
    lid = [(-0.8, -tall), (-0.8 + deep, -tall - deep), (0.8 + deep, -tall - deep), (0.8, -tall)]
    side = [(0.8, -tall), (0.8 + deep, -tall - deep), (0.8 + deep, 0.6 - deep), (0.8, 0.6)]
    return [
        Part(box(-0.8, -tall, 0.8, 0.6), front),
        Part(np.array(lid), front._replace(colour=tinted(shade, 0.3))),
        Part(np.array(side), front._replace(colour=tinted(shade, -0.4))),
    ]


def ball(rng: Rng) -> Parts:
    """A ball, plain or in sectors."""
    skin = surface(rng, colour(rng), "", "stripes", "dots", "zebra", "cloud", "checker", relief=1.0)
    parts = [Part(ellipse(0, 0, 1, points=32), skin._replace(gloss=rng.uniform(0, 1)))]
    if chance(rng, 0.4):
        bands = flat(colour(rng), 0.3)
        for reach in (0.25, 0.75):
            middle = ellipse(0, 0, reach, 0.97, start=-90, stop=90)
            parts.append(Part(stroke(middle, 0.12), bands))
    return parts


def stick(rng: Rng) -> Parts:
    """A bent branch with twigs."""
    bark = surface(rng, colour(rng, "brown", "grey", "beige", free=0.2), "", "wood", "mottle")
    line = curve(
        [(-1.3, rng.uniform(-0.3, 0.3)), (-0.3, 0), (0.4, rng.uniform(-0.2, 0.2)), (1.3, 0)]
    )
    parts = [Part(stroke(line, rng.uniform(0.08, 0.22, 3)), bark)]
    for x in rng.uniform(-0.7, 0.7, 2):
        tip = (x + 0.4, rng.uniform(-0.6, 0.6))
        parts.append(Part(stroke([(x, 0), tip], (0.09, 0.03)), bark))
    return parts


def ring(rng: Rng) -> Parts:
    """A ring or a coil of rope."""
    skin = surface(rng, colour(rng), "", "stripes", "mottle", "pinstripes", relief=0.8)
    width = rng.uniform(0.15, 0.4)
    circle = ellipse(0, 0, 0.9, rng.uniform(0.5, 0.9), points=36)
    parts = [Part(stroke(circle, width), skin)]
    if chance(rng, 0.3):
        parts.append(Part(stroke(circle * 0.6 + (0.1, 0), width * 0.7), skin))
    return parts


def ribbon(rng: Rng) -> Parts:
    """A winding band."""
    skin = surface(rng, colour(rng), "", "stripes", "zebra", "mottle")
    knots = np.stack([np.linspace(-1.4, 1.4, 6), rng.uniform(-0.6, 0.6, 6)], 1)
    return [Part(stroke(curve(knots), rng.uniform(0.08, 0.3)), skin)]


def book(rng: Rng) -> Parts:
    """A pile of books."""
    parts = []
    for i in range(pick(rng, (1, 2, 3))):
        cover = surface(rng, colour(rng), "", "", "cloud", "stripes", "grain", relief=0.2)
        x, y, thick = rng.uniform(-0.15, 0.15), -0.36 * i, 0.32
        parts.append(Part(box(x - 1, y - thick, x + 1, y, 0.05), cover))
        paper = surface(rng, colour(rng, "white", "beige", free=0.0), "pinstripes", relief=0.1)
        paper = paper._replace(turn=np.pi / 2, texels=160.0)
        parts.append(Part(box(x - 0.2, y - thick + 0.05, x + 1.02, y - 0.05), paper))
    return parts


def crystal(rng: Rng) -> Parts:
    """A polygon cut in facets, or a star."""
    count = int(rng.integers(4, 9))
    star = chance(rng, 0.4)
    angles = 2 * np.pi * np.arange(count * (2 if star else 1)) / (count * (2 if star else 1))
    reach = np.where(np.arange(len(angles)) % 2, rng.uniform(0.4, 0.6), 1.0) if star else 1.0
    rim = np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(reach, (-1, 1))
    shade = colour(rng)
    middle = rng.uniform(-0.5, 0.5, 2)
    parts = []
    for i in range(len(rim)):
        facet = np.array([middle, rim[i], rim[(i + 1) % len(rim)]])
        parts.append(Part(facet, flat(tinted(shade, rng.uniform(-0.4, 0.4)), 0.0)))
    return parts


def gear(rng: Rng) -> Parts:
    """A toothed wheel."""
    teeth = int(rng.integers(7, 14))
    angles = np.linspace(0, 2 * np.pi, 4 * teeth + 1)[:-1]
    reach = np.where(np.arange(4 * teeth) % 4 < 2, 1.0, 0.8)[:, None]
    skin = surface(rng, colour(rng, "grey", "brown", "yellow"), "", "mottle", "grain")
    hole = flat(tinted(skin.colour, -0.6), 0.2)
    rim = np.stack([np.cos(angles), np.sin(angles)], 1) * reach
    parts = [Part(rim, skin), Part(ellipse(0, 0, 0.25), hole)]
    for angle in range(0, 360, 72):
        parts.append(Part(turned(ellipse(0.52, 0, 0.14, points=12), angle), hole))
    return parts


def tuft(rng: Rng) -> Parts:
    """A tuft of blades or feathers."""
    shade = colour(rng, "green", "lime", "beige", "violet")
    parts = []
    for x in np.linspace(-0.6, 0.6, int(rng.integers(5, 10))):
        lean, tall = x + rng.normal(0, 0.2), rng.uniform(0.8, 1.6)
        blade = curve([(0.4 * x, 0.6), (0.6 * x, 0.1), (1.3 * lean, 0.6 - tall)])
        tone = flat(tinted(shade, rng.uniform(-0.35, 0.35)), 0.2)
        parts.append(Part(stroke(blade, (0.14, 0.12, 0.02)), tone))
    return parts


CLUTTER = (stone, leaf, crate, ball, stick, ring, ribbon, book, crystal, gear, tuft)
