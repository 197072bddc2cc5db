"""Drawings of bottle, clock, guitar, lamp, mug and teapot.

Each function draws one at random, in the plane of `brush.Part`. Where several makes exist
(songbird, wader), one is drawn. Colours and textures come from the same families for every
class, so that neither tells what an object is.
"""

import numpy as np

from apanet_jax.data.sources.drawing.brush import Part, Parts, flat, surface
from apanet_jax.data.sources.drawing.colours import BLACK, WHITE, Rng, chance, colour, pick, tinted
from apanet_jax.data.sources.drawing.outlines import (
    box,
    curve,
    ellipse,
    spline,
    stroke,
    symmetric,
    turned,
)


def bottle(rng: Rng) -> Parts:
    """A bottle, often with a label, sometimes half full."""
    glass = surface(rng, colour(rng, "green", "brown", "teal", "white"), "", "", "", "cloud")
    glass = glass._replace(relief=0.7, gloss=rng.uniform(0.4, 1.0))
    neck, body = rng.uniform(0.11, 0.17), rng.uniform(0.3, 0.46)
    shoulder, slope = rng.uniform(-0.5, -0.05), rng.uniform(0.1, 0.4)
    half = [(0, -1.15), (neck, -1.15), (neck * 1.1, shoulder - slope), (body * 0.85, shoulder)]
    half += [(body, shoulder + 0.15), (body * rng.uniform(0.8, 1.05), 0.5), (body, 1.05)]
    half += [(body * 0.85, 1.15), (0, 1.15)]
    parts = [Part(symmetric(half), glass)]
    if chance(rng, 0.4):
        level = rng.uniform(shoulder, 0.5)
        drink = flat(colour(rng, "red", "orange", "brown"), relief=0.5)
        parts.append(Part(box(-0.88 * body, level, 0.88 * body, 1.08, 0.1), drink))
    top = rng.uniform(shoulder + 0.25, 0.35)
    if chance(rng, 0.75):
        label = surface(rng, colour(rng, "white", "beige"), "", "stripes", "plaid", "dots", "wood")
        low = top + rng.uniform(0.35, 0.6)
        parts.append(Part(box(-body, top, body, low), label._replace(relief=0.35)))
        mark = flat(colour(rng), 0.1)
        parts.append(Part(box(-0.5 * body, top + 0.1, 0.5 * body, top + 0.18), mark))
        parts.append(Part(ellipse(0, top + 0.3, 0.3 * body, 0.09), mark))
    cap = surface(rng, colour(rng, "red", "black", "beige", "yellow"), "", "pinstripes")
    parts.append(Part(box(-neck * 1.2, -1.25, neck * 1.2, rng.uniform(-1.08, -0.9), 0.03), cap))
    shine = stroke([(-0.68 * body, shoulder + 0.2), (-0.68 * body, 0.9)], (0.03, 0.07, 0.02))
    return [*parts, Part(shine, flat(tinted(glass.colour, 0.7), 0.0))]


def clock(rng: Rng) -> Parts:
    """A clock: on the wall, square, with a pendulum, or an alarm clock."""
    tint = colour(rng, "red", "black", "blue", "brown", "grey", "teal")
    case = surface(rng, tint, "", "", "wood", "stripes", "mottle", "dots", relief=0.8)
    dial = surface(rng, colour(rng, "white", "beige", free=0.25), "", "", "", "cloud", relief=0.2)
    dark_dial = dial.colour.mean() < 110
    ink = flat(WHITE if dark_dial else BLACK, 0.0)
    accent = flat(colour(rng, "red", "black"), 0.0)
    rim = rng.uniform(0.1, 0.22)
    kind = pick(rng, ("wall", "wall", "alarm", "square", "pendulum"))
    parts: Parts = []
    if kind == "alarm":
        for side in (-1, 1):
            leg = stroke([(0.5 * side, 0.7), (0.78 * side, 1.15)], (0.2, 0.12))
            bell = ellipse(0, 0, 0.4, 0.36, 0, 180, 360)
            parts.append(Part(leg, case))
            parts.append(Part(turned(bell, 38 * side) + (0.62 * side, -0.82), case))
        parts.append(Part(box(-0.05, -1.3, 0.05, -0.9), case))
        parts.append(Part(ellipse(0, -1.28, 0.16, 0.08), case))
    elif kind == "square":
        parts.append(Part(box(-1, -1, 1, 1, rng.uniform(0.05, 0.4)), case))
    elif kind == "pendulum":
        parts.append(Part(np.array([(-1.1, -0.95), (0, -1.6), (1.1, -0.95)]), case))
        parts.append(Part(box(-0.98, -1.0, 0.98, 1.9, 0.05), case))
        parts.append(Part(box(-0.6, 1.05, 0.6, 1.75), flat(tinted(tint, -0.6), 0.2)))
        brass = flat(np.array([215, 175, 70], np.float32), 0.6, 0.8)
        swing = rng.uniform(-0.25, 0.25)
        parts.append(Part(stroke([(0, 1.05), (swing, 1.45)], 0.06), brass))
        parts.append(Part(ellipse(swing, 1.48, 0.2), brass))
    if kind != "square":
        parts.append(Part(ellipse(0, 0, 1, points=36), case))
    parts.append(Part(ellipse(0, 0, 1 - rim, points=36), dial))
    edge = (1 - rim) * 0.95
    numerals = chance(rng, 0.4)
    for hour in range(12):
        major = hour % 3 == 0
        angle = np.radians(30 * hour)
        if numerals:
            spot = ellipse(0.86 * edge * np.sin(angle), 0.86 * edge * np.cos(angle), 0.07, 0.1)
            parts.append(Part(spot[::3], ink))
        else:
            inner = edge * (0.76 if major else 0.87)
            ends = np.outer((inner, edge), (np.sin(angle), -np.cos(angle)))
            parts.append(Part(stroke(ends, 0.08 if major else 0.045), ink))
    for reach, width in ((0.48, 0.11), (0.74, 0.075)):
        angle = rng.uniform(0, 2 * np.pi)
        ends = np.outer((-0.12, reach * edge), (np.sin(angle), -np.cos(angle)))
        parts.append(Part(stroke(ends, (width, 0.5 * width)), ink))
    if chance(rng, 0.5):
        angle = rng.uniform(0, 2 * np.pi)
        ends = np.outer((-0.2, 0.8 * edge), (np.sin(angle), -np.cos(angle)))
        parts.append(Part(stroke(ends, 0.03), accent))
    return [*parts, Part(ellipse(0, 0, 0.08, points=12), accent)]


def guitar(rng: Rng) -> Parts:
    """A guitar, acoustic or electric."""
    wood = surface(rng, colour(rng, "orange", "brown", "beige", "red"), "wood", "wood", "", "cloud")
    wood = wood._replace(texels=rng.uniform(40, 80), turn=0.0)
    neck = flat(colour(rng, "brown", "black", free=0.1), 0.4)
    metal = flat(np.array([205, 205, 200], np.float32), 0.4)
    waist, bout = rng.uniform(0.4, 0.52), rng.uniform(0.68, 0.85)
    long = rng.uniform(1.2, 1.5)
    electric = chance(rng, 0.35)
    if electric:
        half = [(0.12, 0.1), (0.42, -0.35), (0.58, -0.28), (waist, 0.25), (bout, 0.75), (0.4, 1.2)]
        left = [(-0.4, 1.2), (-bout, 0.8), (-waist, 0.3), (-0.62, -0.1), (-0.5, -0.4), (-0.12, 0.1)]
        body = spline([*half, (0, 1.15), *left])
    else:
        half = [(0, -0.15), (0.3, -0.17), (0.55, 0.05), (waist, 0.42), (bout, 0.85), (0.45, 1.35)]
        body = spline(symmetric([*half, (0, 1.42)]))
    parts = [Part(body, wood._replace(colour=tinted(wood.colour, -0.6), texture=""))]
    centre = body.mean(0)
    parts.append(Part((body - centre) * 0.94 + centre, wood))
    if electric:
        guard = spline(
            [(0.1, 0.15), (0.42, 0.3), (0.5, 0.8), (0.1, 0.7), (-0.25, 0.75), (-0.2, 0.2)]
        )
        parts.append(Part(guard, flat(colour(rng, "white", "black"), 0.2)))
        parts += [Part(box(-0.2, y, 0.2, y + 0.12, 0.03), flat(BLACK, 0.4)) for y in (0.3, 0.55)]
        parts += [Part(ellipse(x, y, 0.06, points=10), metal) for x, y in ((0.38, 0.85), (0.3, 1))]
    else:
        parts.append(Part(ellipse(0, 0.35, 0.27), flat(tinted(wood.colour, -0.5), 0.0)))
        parts.append(Part(ellipse(0, 0.35, 0.22), flat(BLACK, 0.0)))
    bridge = 0.8 if electric else 0.95
    parts.append(Part(box(-0.26, bridge, 0.26, bridge + 0.12, 0.03), neck))
    parts.append(Part(np.array([(-0.085, -long), (0.085, -long), (0.11, 0.2), (-0.11, 0.2)]), neck))
    for fret in np.linspace(-long + 0.1, 0.1, 9):
        parts.append(Part(stroke([(-0.1, fret), (0.1, fret)], 0.02), metal))
    head = [(-0.09, -long), (-0.17, -long - 0.1), (-0.14, -long - 0.48), (0.14, -long - 0.48)]
    parts.append(Part(np.array([*head, (0.17, -long - 0.1), (0.09, -long)]), neck))
    for y in (0.14, 0.26, 0.38):
        parts += [Part(ellipse(x, -long - y, 0.06, 0.045, points=9), metal) for x in (-0.2, 0.2)]
    for x in (-0.06, -0.02, 0.02, 0.06):
        parts.append(Part(stroke([(x, -long), (1.6 * x, bridge)], 0.012), metal))
    return parts


def lamp(rng: Rng) -> Parts:
    """A lamp for the table, desk or floor."""
    tint = colour(rng, "beige", "white", "yellow", "red", "teal")
    shade = surface(rng, tint, "", "", "pinstripes", "dots", "stripes", "zebra", "cloud")
    lit = chance(rng, 0.4)
    shade = shade._replace(relief=0.3 if lit else 0.6, colour=tinted(tint, 0.4 if lit else 0.0))
    stand = surface(rng, colour(rng, "brown", "black", "blue", "yellow"), "", "", "wood", "mottle")
    stand = stand._replace(gloss=rng.uniform(0, 0.9))
    kind = pick(rng, ("table", "table", "table", "desk", "floor"))
    if kind == "desk":
        knee, top = (-0.45, rng.uniform(-0.1, 0.3)), (0.15, rng.uniform(-0.9, -0.6))
        parts = [Part(ellipse(0.1, 1.1, 0.55, 0.13), stand)]
        parts.append(Part(stroke([(0.1, 1.05), knee], 0.09), stand))
        parts.append(Part(stroke([knee, top], 0.09), stand))
        parts += [Part(ellipse(*joint, 0.1, points=12), stand) for joint in (knee, top)]
        hood = symmetric([(0, -0.22), (0.17, -0.2), (0.22, 0.0), (0.5, 0.45), (0, 0.45)])
        bulb = ellipse(0, 0.45, 0.5, 0.12)
        tilt = rng.uniform(-60, -15)
        glow = flat(np.array([255, 245, 200], np.float32), 0.0)
        offset = np.array(top) + (0.12, 0.05)
        parts.append(Part(turned(bulb, tilt) + offset, glow))
        return [*parts, Part(turned(hood, tilt) + offset, shade)]
    high, narrow = rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.75)
    wide = rng.uniform(0.75, 0.95)
    foot = 1.35 if kind == "table" else 2.2
    parts = []
    if kind == "table":
        a, b, c = rng.uniform(0.08, 0.45, 3)
        vase = symmetric(
            [(0.07, -0.1), (a, 0.3), (b, 0.65), (c * 0.6, 1.0), (0.35, 1.25), (0.1, 1.3)]
        )
        parts.append(Part(box(-0.06, -0.3, 0.06, 0.2), stand))
        parts.append(Part(spline(vase), stand))
    else:
        parts.append(Part(box(-0.06, -0.3, 0.06, foot), stand))
    parts.append(Part(ellipse(0, foot - 0.02, 0.5, 0.12), stand))
    inside = flat(tinted(shade.colour, 0.5 if lit else -0.4), 0.0)
    hood = symmetric([(0, -high - 0.2), (narrow * wide, -high - 0.2), (wide, 0), (0, 0.08)])
    parts.append(Part(hood, shade))
    if chance(rng, 0.5):
        parts.append(Part(ellipse(0, 0.02, wide, 0.1), inside))
    band = flat(colour(rng), 0.1)
    if chance(rng, 0.5):
        parts.append(Part(stroke([(-wide, 0), (wide, 0)], 0.09), band))
        parts.append(
            Part(
                stroke([(-narrow * wide, -high - 0.17), (narrow * wide, -high - 0.17)], 0.07), band
            )
        )
    return parts


def mug(rng: Rng) -> Parts:
    """A mug with something to drink in it."""
    tint = colour(rng, "white", "red", "blue", "green", "beige")
    glaze = surface(rng, tint, "", "", "stripes", "dots", "zebra", "plaid", "checker", "speckle")
    glaze = glaze._replace(relief=0.8, gloss=rng.uniform(0.3, 1.0))
    plain = glaze._replace(texture="")
    drink = flat(colour(rng, "brown", "brown", "black", free=0.15), 0.1)
    tall, foot, lip = rng.uniform(0.75, 1.2), rng.uniform(0.55, 0.78), rng.uniform(0.1, 0.22)
    high, low = -0.62 * tall, 0.6 * tall
    reach = rng.uniform(0.4, 0.62)
    loop = curve(
        [(0.62, high + 0.15), (0.7 + reach, high + 0.2), (0.7 + reach, 0.2), (0.6, low - 0.2)]
    )
    parts = [Part(stroke(loop, (0.22, 0.17, 0.15, 0.2)), plain)]
    side = ellipse(0, low, foot, lip, 0, 0, 180, 16)
    body = np.concatenate([[(-0.75, high)], side[::-1], [(0.75, high)]])
    parts.append(Part(body, glaze))
    motif = pick(rng, ("", "", "heart", "band", "disc"))
    mark = flat(colour(rng), 0.1)
    if motif == "heart":
        heart = symmetric([(0, 0.0), (0.2, -0.2), (0.36, 0.0), (0, 0.42)])
        parts.append(Part(spline(heart) + (0, -0.05), mark))
    elif motif == "band":
        parts.append(Part(box(-0.72, -0.1, 0.72, 0.15), mark))
    elif motif == "disc":
        parts.append(Part(ellipse(0, 0.05, 0.32), mark))
    parts.append(Part(ellipse(0, high, 0.76, lip), plain._replace(relief=0.2, gloss=0.0)))
    inner = flat(tinted(tint, -0.35), 0.1)
    parts.append(Part(ellipse(0, high + 0.01, 0.68, lip * 0.8), inner))
    return [*parts, Part(ellipse(0, high + 0.04, 0.62, lip * 0.62), drink)]


def teapot(rng: Rng) -> Parts:
    """A teapot, its handle at the side or over the lid."""
    tint = colour(rng, "white", "blue", "brown", "green", "grey")
    glaze = surface(rng, tint, "", "", "dots", "cloud", "stripes", "checker", "zebra", "speckle")
    glaze = glaze._replace(relief=0.9, gloss=rng.uniform(0.3, 1.0))
    plain = glaze._replace(texture="")
    dark = flat(tinted(tint, -0.4), 0.2)
    tall, belly = rng.uniform(0.55, 0.85), rng.uniform(0.78, 0.95)
    reach, high = rng.uniform(1.2, 1.5), rng.uniform(-0.65, -0.4)
    spout = curve([(0.5, 0.3), (0.95, 0.15), (1.1, -0.25), (reach, high)])
    parts = [Part(stroke(spout, (0.55, 0.32, 0.2, 0.17)), plain)]
    parts.append(Part(ellipse(reach, high, 0.1, 0.06, 25, points=12), dark))
    if chance(rng, 0.3):
        loop = curve([(-0.55, -0.45), (-0.5, -1.15), (0.5, -1.15), (0.55, -0.45)])
        handle = surface(rng, colour(rng, "brown", "black"), "wood", "")
    else:
        out = rng.uniform(1.2, 1.45)
        loop = curve([(-0.65, -0.35), (-out, -0.45), (-out, 0.2), (-0.7, 0.35)])
        handle = plain
    parts.append(Part(stroke(loop, (0.16, 0.15, 0.16)), handle))
    half = [(0, -tall), (0.4, -0.95 * tall), (belly, -0.2), (0.8 * belly, 0.5 * tall)]
    half += [(0.45, 0.92 * tall), (0, 0.95 * tall)]
    parts.append(Part(symmetric([(0, 0.8 * tall), (0.45, 0.8 * tall), (0.52, 1.02 * tall)]), plain))
    parts.append(Part(spline(symmetric(half)), glaze))
    if chance(rng, 0.4):
        mark = flat(colour(rng), 0.1)
        parts += [
            Part(ellipse(0.14 * np.cos(a), 0.05 + 0.14 * np.sin(a), 0.1, points=10), mark)
            for a in np.linspace(0, 2 * np.pi, 6)[:-1]
        ]
    lid = symmetric(
        [(0, -tall - 0.26), (0.3, -tall - 0.17), (0.44, -0.93 * tall), (0, -0.86 * tall)]
    )
    parts.append(Part(spline(lid), plain))
    parts.append(Part(stroke([(-0.42, -0.91 * tall), (0.42, -0.91 * tall)], 0.04), dark))
    return [*parts, Part(ellipse(0, -tall - 0.3, 0.13, 0.12), plain)]
