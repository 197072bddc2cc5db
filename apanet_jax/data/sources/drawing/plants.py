"""Drawings of apple, banana, cactus, flower and mushroom.

Each function draws one at random, in the plane of `brush.Part`. Where several makes exist
(songbird, wader), one is drawn. Colours and textures come from the same families for every
class, so that neither tells what an object is.
"""

import numpy as np

from apanet_jax.data.sources.drawing.brush import Paint, Part, Parts, flat, moved, surface
from apanet_jax.data.sources.drawing.colours import Rng, chance, colour, pick, tinted
from apanet_jax.data.sources.drawing.outlines import (
    box,
    curve,
    ellipse,
    mirrored,
    spline,
    stroke,
    symmetric,
    turned,
)


def apple(rng: Rng) -> Parts:
    """An apple, whole or cut open."""
    skin = surface(
        rng, colour(rng, "red", "green", "yellow", "lime"), "", "", "mottle", "cloud", "speckle"
    )
    skin = skin._replace(relief=0.8, gloss=rng.uniform(0.2, 1.0))
    w, waist = rng.uniform(0.86, 1.08), rng.uniform(0.6, 0.85)
    body = spline(
        symmetric(
            [
                (0, -0.6),
                (0.3 * w, -0.82),
                (0.8 * w, -0.62),
                (0.98 * w, -0.1),
                (waist, 0.55),
                (0.3, 0.88),
                (0, 0.78),
            ]
        )
    )
    lean = rng.uniform(-0.25, 0.25)
    stem = stroke(curve([(0, -0.5), (0.3 * lean, -0.8), (lean, -1.1)]), (0.07, 0.12))
    parts = [Part(body, skin)]
    if chance(rng, 0.15):
        # Cut open: flesh, core and pips.
        flesh = np.array([245, 232, 190], np.float32)
        parts.append(Part(body * 0.88, flat(flesh, 0.1)))
        parts.append(Part(ellipse(0, 0.05, 0.28, 0.36), flat(tinted(flesh, -0.15), 0.2)))
        pip = flat(np.array([80, 45, 20], np.float32))
        parts += [
            Part(turned(ellipse(0, -0.1, 0.07, 0.13, points=12), a) + (x, 0.1), pip)
            for x, a in ((-0.12, 10), (0.12, -10))
        ]
    else:
        parts.append(
            Part(ellipse(0, -0.6, 0.26, 0.09), flat(tinted(skin.colour, -0.45), relief=0.2))
        )
    parts.append(Part(stem, flat(colour(rng, "brown", free=0.1))))
    for side in (1, -1):
        if chance(rng, 0.5):
            leaf = spline([(0, -0.72), (0.35, -1.1), (0.85, -1.08), (0.5, -0.75)]) * (side, 1)
            green = colour(rng, "green", "lime", free=0.1)
            vein = stroke([(0.05 * side, -0.75), (0.7 * side, -1.02)], 0.03)
            parts += [Part(leaf, flat(green, 0.6)), Part(vein, flat(tinted(green, -0.4)))]
    return parts


def banana(rng: Rng) -> Parts:
    """A banana or a bunch of up to three."""
    peel = colour(rng, "yellow", "yellow", "lime", free=0.35)
    bend, thick = rng.uniform(0.35, 0.75), rng.uniform(0.34, 0.5)

    def one(bend: float, paint: Paint) -> Parts:
        line = curve([(-1, -bend), (-0.6, 0.1 * bend), (0, 0.45 * bend), (0.6, 0.1), (1, -bend)], 6)
        widths = np.array([0.12, 0.75, 0.95, 1, 0.95, 0.75, 0.2]) * thick
        ridge = stroke(line[2:-2] + (0.0, -0.05), (0.02, 0.04, 0.02))
        shade = stroke(line[2:-2] + (0.0, 0.3 * thick), np.array([0.05, 0.3, 0.3, 0.05]) * thick)
        tip = flat(tinted(np.array([90, 70, 35], np.float32), rng.uniform(-0.4, 0.2)))
        return [
            Part(stroke([line[0] + (-0.1, -0.2), line[0], line[1]], (0.13, 0.13)), tip),
            Part(stroke(line, widths), paint),
            Part(shade, flat(tinted(paint.colour, -0.18), 0.0)),
            Part(ridge, flat(tinted(paint.colour, -0.35), 0.0)),
            Part(ellipse(*line[-1], 0.08, 0.07, points=10), tip),
        ]

    skin = surface(rng, peel, "", "", "speckle", "mottle", "patches")._replace(relief=0.6)
    skin = skin._replace(other=tinted(peel, -0.55))
    count = pick(rng, (1, 1, 2, 3))
    parts = []
    for i in range(count):
        fruit = one(bend * (1 - 0.3 * i), skin._replace(colour=tinted(peel, -0.12 * i)))
        parts = [Part(p.points + (0.02 * i, -0.28 * i), p.paint) for p in fruit] + parts
    if count > 1:
        bunch = spline([(-1.25, -bend - 0.45), (-0.95, -bend - 0.4), (-0.9, -bend), (-1.1, -bend)])
        parts.append(Part(bunch, flat(np.array([105, 90, 45], np.float32))))
    return parts


def cactus(rng: Rng) -> Parts:
    """A cactus (saguaro, prickly pear or barrel), often in a pot."""
    green = colour(rng, "green", "green", "lime", "teal", free=0.3)
    ribs = surface(rng, green, "stripes", "stripes", "pinstripes", "speckle", "dots")
    ribs = ribs._replace(other=tinted(green, rng.choice([-0.45, 0.45])), relief=0.7, gloss=0.0)
    ribs = ribs._replace(texels=rng.uniform(90, 160), turn=0.0)
    spine = flat(tinted(green, 0.7), 0.0)
    bloom = flat(colour(rng, "pink", "red", "yellow", free=0.2))
    parts: Parts = []
    tops: list[tuple[float, float]] = []
    kind = pick(rng, ("saguaro", "saguaro", "saguaro", "pads", "barrel"))
    if kind == "saguaro":
        trunk = rng.uniform(0.2, 0.3)
        parts.append(Part(box(-trunk, -1.2, trunk, 1.0, trunk * 0.95), ribs))
        tops.append((0, -1.2))
        for side in (-1, 1):
            if side == 1 and chance(rng, 0.2):
                continue
            foot, reach = rng.uniform(-0.15, 0.45), rng.uniform(0.5, 0.75)
            tip, wide = foot - rng.uniform(0.4, 0.9), trunk * rng.uniform(1.1, 1.5)
            elbow = [(0, foot), (0.7 * reach, foot), (reach, foot - 0.18), (reach, tip)]
            arm = stroke(curve(elbow) * (side, 1), (wide, wide, wide))
            parts.append(Part(arm, ribs._replace(phase=ribs.phase + 8)))
            parts.append(Part(ellipse(side * reach, tip, wide / 2), ribs))
            tops.append((side * reach, tip - wide / 2))
    elif kind == "pads":
        pads = [
            (0, 0.5, 0.42, 0.6, 0),
            (-0.42, -0.25, 0.32, 0.48, -30),
            (0.45, -0.2, 0.34, 0.5, 35),
        ]
        pads += [(0.05, -0.55, 0.28, 0.42, 5), (-0.75, -0.75, 0.22, 0.3, -25)]
        for x, y, rx, ry, turn in pads[: pick(rng, (3, 4, 5))]:
            pad = Part(
                ellipse(x, y, rx, ry, turn), ribs._replace(texture=pick(rng, ("dots", "speckle")))
            )
            parts.append(pad)
            tops.append((x + ry * np.sin(np.radians(turn)), y - ry * np.cos(np.radians(turn))))
    else:
        round_ = rng.uniform(0.7, 0.95)
        body = ribs._replace(colour=tinted(green, -0.3))
        parts.append(Part(ellipse(0, 0.2, round_, 0.8), body))
        for rib in (0.8, 0.45, 0.1):
            tone = ribs._replace(colour=tinted(green, 0.15 * (0.8 - rib)))
            parts.append(Part(ellipse(0, 0.2, round_ * rib, 0.8), tone))
        tops.append((0, -0.6))
    for part in parts[:5]:
        edge = part.points[:: max(1, len(part.points) // 9)]
        middle = part.points.mean(0)
        for x, y in edge:
            out = np.array([x, y]) - middle
            out = out / max(np.hypot(*out), 1e-6) * 0.13
            if len(parts) < 40:
                parts.append(Part(stroke([(x, y), (x, y) + out], (0.05, 0.01)), spine))
    for x, y in tops:
        if chance(rng, 0.3):
            parts += [
                Part(ellipse(x + dx, y, 0.06, 0.14, dx * 300), bloom) for dx in (-0.1, 0, 0.1)
            ]
    if chance(rng, 0.5):
        pot = surface(
            rng, colour(rng, "orange", "brown"), "", "stripes", "zebra", "dots", "checker"
        )
        parts.append(Part(symmetric([(0, 0.85), (0.5, 0.85), (0.38, 1.55), (0, 1.55)]), pot))
        rim = pot._replace(colour=tinted(pot.colour, 0.15), texture="")
        parts.append(Part(box(-0.57, 0.78, 0.57, 0.98, 0.04), rim))
    return parts


def flower(rng: Rng) -> Parts:
    """A flower with open petals, or a tulip, often on a stem."""
    tint = colour(rng, "white", "pink", "red", "violet", "yellow", free=0.3)
    petal = surface(rng, tint, "", "", "mottle", "cloud", "pinstripes", relief=0.4)
    heart = surface(rng, colour(rng, "yellow", "brown", "orange"), "speckle", "dots", "grain")
    count, tip = int(rng.integers(5, 15)), rng.uniform(0.7, 1.0)
    wide = min(0.45, 2.3 / count) * rng.uniform(0.8, 1.1)
    shape = [(0, -0.1), (0.6 * wide, -0.45), (wide * tip, -0.8), (0, -1), (-wide * tip, -0.8)]
    outline = spline([*shape, (-0.6 * wide, -0.45)], 4)
    parts: Parts = []
    green = surface(rng, colour(rng, "green", "lime", free=0.1), "", "mottle")
    squash = rng.uniform(0.65, 1.0)
    if chance(rng, 0.6):
        bend, foot = rng.uniform(-0.35, 0.35), rng.uniform(1.5, 2.1)
        stem = curve([(0, 0), (bend, 0.5 * foot), (0.5 * bend, foot)])
        parts.append(Part(stroke(stem, (0.09, 0.12)), green))
        for side in (1, -1):
            leaf = spline([(0, 0), (0.3, -0.28), (0.8, -0.35), (0.45, 0.02)]) * (side, 1)
            parts.append(Part(leaf + (0.9 * bend, rng.uniform(0.6, 0.8) * foot), green))
    if chance(rng, 0.2):
        # A tulip: the cup from the side.
        cup = spline([(-0.1, 0.35), (-0.6, 0.1), (-0.62, -0.75), (-0.2, -0.4), (0.1, 0.3)])
        back = petal._replace(colour=tinted(tint, -0.2))
        middle = spline(symmetric([(0, -0.95), (0.38, -0.4), (0.3, 0.3), (0, 0.42)]))
        parts += [Part(cup, back), Part(mirrored(cup), back), Part(middle, petal)]
        return parts
    layers = pick(rng, (1, 1, 2))
    for layer in range(layers):
        tone = petal._replace(colour=tinted(tint, -0.18 * (layers - 1 - layer)))
        for i in range(count):
            angle = 360 * (i + 0.5 * layer) / count + 2.0 * layer
            leaf = turned(outline * (1 - 0.25 * layer), angle) * (1, squash)
            shade = tone._replace(colour=tinted(tone.colour, -0.12 * (i % 2)), turn=0.0)
            parts.append(Part(leaf, shade))
    radius = rng.uniform(0.2, 0.42)
    parts.append(Part(ellipse(0, 0, radius, radius * squash), heart))
    return parts


def mushroom(rng: Rng) -> Parts:
    """A mushroom, sometimes with a smaller one beside it."""
    tint = colour(rng, "red", "brown", "beige", "orange", "white")
    cap = surface(rng, tint, "", "", "mottle", "cloud", "dots", relief=0.8)
    cream = colour(rng, "white", "beige", free=0.15)
    stalk = surface(rng, cream, "", "", "mottle", "pinstripes")._replace(turn=0.0, gloss=0.0)
    gills = Paint(tinted(cream, -0.12), tinted(cream, -0.45), "pinstripes", 140.0, relief=0.0)
    spots = flat(colour(rng, "white", "beige", "yellow", free=0.2), 0.3)
    dotted, ring = chance(rng, 0.5), chance(rng, 0.4)

    def one() -> Parts:
        tall, wide = rng.uniform(0.45, 1.0), rng.uniform(0.75, 1.1)
        droop, thick = rng.uniform(0.0, 0.2), rng.uniform(0.14, 0.28)
        lean, foot = rng.uniform(-0.15, 0.15), rng.uniform(0.8, 1.25)
        stem = curve([(0, 0), (lean, 0.5 * foot), (1.5 * lean, foot)])
        parts = [Part(stroke(stem, (2 * thick, 1.7 * thick, 2.6 * thick)), stalk)]
        parts.append(Part(ellipse(1.5 * lean, foot, 1.3 * thick, 0.12, points=14), stalk))
        if ring:
            skirt = [(0.9 * thick, 0.3), (1.6 * thick, 0.48), (0, 0.52)]
            parts.append(Part(symmetric([(0, 0.28), *skirt]) + (0.5 * lean, 0), flat(cream, 0.4)))
        parts.append(Part(ellipse(0, 0.02, 0.92 * wide, 0.2 + 0.3 * droop), gills))
        peak = pick(rng, (0.45, 0.6, 0.3)) * wide
        dome = [(0, -tall), (peak, -0.88 * tall), (0.92 * wide, -0.35 * tall), (wide, 0.04 + droop)]
        dome += [(0.7 * wide, 0.06 + 0.3 * droop), (0, 0.02)]
        parts.append(Part(spline(symmetric(dome)), cap))
        if dotted:
            for x, y, r in ((0, -0.6, 0.14), (-0.45, -0.4, 0.12), (0.42, -0.5, 0.1)):
                parts.append(Part(ellipse(x * wide, y * tall, r, 0.8 * r, points=12), spots))
            for x, y, r in ((0.68, -0.15, 0.1), (-0.75, -0.1, 0.08), (0.12, -0.2, 0.09)):
                parts.append(Part(ellipse(x * wide, y * tall, r, 0.7 * r, points=12), spots))
        return parts

    parts = one()
    if chance(rng, 0.35):
        side = pick(rng, (-1, 1))
        small = moved(one(), rng.uniform(0.5, 0.7), side * rng.uniform(0.75, 1.0), 0.55)
        parts = small + parts if chance(rng, 0.5) else parts + small
    return parts
