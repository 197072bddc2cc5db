"""Drawings of bird, butterfly, cat, fish and snail.

Each function draws one at random, in the plane of `brush.Part`. Where several makes exist
(songbird, wader), one is drawn. Colours and textures come from the same families for every
class, so that neither tells what an object is.
"""

import numpy as np

from apanet_jax.data.sources.drawing.brush import Part, Parts, flat, moved, surface
from apanet_jax.data.sources.drawing.colours import BLACK, WHITE, Rng, chance, colour, pick, tinted
from apanet_jax.data.sources.drawing.outlines import curve, ellipse, spline, stroke, symmetric


def _eye(x: float, y: float, radius: float) -> Parts:
    return [
        Part(ellipse(x, y, radius, points=14), flat(WHITE)),
        Part(ellipse(x + 0.15 * radius, y, 0.62 * radius, points=12), flat(BLACK)),
        Part(ellipse(x + 0.3 * radius, y - 0.25 * radius, 0.2 * radius, points=8), flat(WHITE)),
    ]


def bird(rng: Rng) -> Parts:
    """A songbird, wader, duck or a bird in flight."""
    back = colour(rng, "blue", "brown", "grey", "red", "black")
    belly = colour(rng, "white", "beige", "orange", "yellow", free=0.25)
    plumage = surface(rng, back, "", "", "scales", "mottle", "pinstripes")
    wing = surface(rng, tinted(back, rng.uniform(-0.45, 0.3)), "", "scales", "stripes", "zebra")
    beak, legs = (flat(colour(rng, "orange", "yellow", "black", free=0.1)) for _ in range(2))
    kind = pick(rng, ("songbird", "songbird", "wader", "duck", "flying"))
    if kind == "songbird":
        tail = rng.uniform(1.05, 1.45)
        plump = rng.uniform(0.38, 0.58)
        body = [(0.66, -0.1), (0.45, 0.3), (0, plump), (-0.5, 0.25), (-0.95, 0.32)]
        body += [(-tail, 0.42), (-tail, 0.18), (-0.55, -0.15), (0, -0.38), (0.35, -0.62)]
        body += [(0.58, -0.72), (0.8, -0.55)]
        chest = spline([(0.68, -0.2), (0.5, 0.25), (0.05, plump - 0.03), (0, 0.15), (0.35, -0.1)])
        feather = [(0.3, -0.12), (0.1, 0.2), (-0.45, 0.22), (-0.95, 0.2), (-0.4, -0.12), (0, -0.28)]
        bill = [(0.75, -0.62), (0.75 + rng.uniform(0.22, 0.42), -0.5), (0.74, -0.4)]
        feet = [stroke([(x, 0.35), (x + 0.08, 0.8), (x + 0.25, 0.82)], 0.06) for x in (-0.05, 0.2)]
        eye = _eye(0.6, -0.54, 0.08)
    elif kind == "wader":
        body = [(0.5, -0.1), (0.2, 0.28), (-0.4, 0.25), (-1, 0.2), (-0.4, -0.22), (0.2, -0.3)]
        neck = curve([(0.3, 0), (0.65, -0.3), (0.45, -0.75), (0.62, -1.15)])
        feet = [
            stroke([(x, 0.1), (x + 0.06, 0.65), (x, 1.2), (x + 0.25, 1.22)], 0.07)
            for x in (-0.15, 0.12)
        ]
        parts = [Part(f, legs) for f in feet]
        parts.append(Part(stroke(neck, (0.34, 0.2, 0.17, 0.2)), plumage))
        parts.append(Part(spline(body), plumage))
        parts.append(Part(ellipse(0.68, -1.18, 0.2, 0.16), plumage))
        long = rng.uniform(0.45, 0.8)
        parts.append(Part(np.array([(0.82, -1.26), (0.85 + long, -1.1), (0.82, -1.1)]), beak))
        wings = spline([(0.35, -0.15), (0, 0.15), (-0.85, 0.16), (-0.3, -0.2)])
        return [*parts, Part(wings, wing), *_eye(0.7, -1.22, 0.06)]
    elif kind == "duck":
        body = [(0.75, 0.1), (0.5, 0.5), (-0.4, 0.55), (-0.95, 0.2), (-1.15, -0.2), (-0.6, 0)]
        body += [(0, -0.1), (0.25, -0.3), (0.25, -0.7), (0.5, -0.92), (0.8, -0.78), (0.72, -0.4)]
        chest = spline([(0.76, 0.05), (0.5, 0.5), (0.1, 0.53), (0.35, 0.2), (0.55, -0.25)])
        feather = [(0.3, 0.05), (0.1, 0.35), (-0.5, 0.35), (-1.0, 0.02), (-0.3, 0.02)]
        bill = spline([(0.74, -0.82), (1.2, -0.66), (1.15, -0.55), (0.75, -0.58)], 3)
        feet, eye = [], _eye(0.6, -0.76, 0.07)
    else:
        body = [(0.85, -0.02), (0.6, 0.18), (0, 0.24), (-0.6, 0.1), (-1.2, 0.22), (-1.15, -0.12)]
        body += [(-0.5, -0.08), (0.2, -0.18), (0.6, -0.2)]
        chest = spline([(0.7, 0.1), (0.3, 0.22), (-0.3, 0.18), (0.2, 0.08)])
        lift = rng.uniform(0.8, 1.25)
        feather = [
            (0.35, 0.02),
            (-0.2, 0.1),
            (-0.75, -0.3 * lift),
            (-0.95, -lift),
            (-0.5, -0.9 * lift),
        ]
        feather += [(0.1, -0.55 * lift)]
        far = spline(np.array(feather) * (0.75, 0.95) + (0.35, -0.03))
        bill = [(0.82, -0.12), (1.12, 0.02), (0.82, 0.08)]
        feet, eye = [], _eye(0.68, -0.07, 0.06)
    parts = [Part(f, legs) for f in feet]
    if kind == "flying":
        parts.append(Part(far, wing._replace(colour=tinted(wing.colour, -0.25))))
    parts.append(Part(np.asarray(bill, float), beak))
    parts.append(Part(spline(body), plumage))
    parts.append(Part(chest, flat(belly, 0.3)))
    return [*parts, Part(spline(feather), wing), *eye]


def butterfly(rng: Rng) -> Parts:
    """A butterfly seen from above, its wings flat or half folded."""
    base = colour(rng, "orange", "yellow", "blue", "white", "red")
    inner = surface(rng, base, "", "", "mottle", "zebra", "cloud", relief=0.3)
    rim = flat(pick(rng, (BLACK, tinted(base, -0.7), colour(rng))), 0.3)
    spots = flat(colour(rng, "white", "yellow", "orange"), 0.0)
    reach, high, low = rng.uniform(0.9, 1.15), rng.uniform(0.7, 1.0), rng.uniform(0.6, 0.95)
    upper = np.array(
        [(0.04, -0.1), (0.35, -0.7), (0.8, -1.0), (1.0, -0.85), (0.95, -0.3), (0.5, 0)]
    )
    lower = np.array([(0.04, 0.05), (0.5, 0), (0.8, 0.3), (0.75, 0.75), (0.45, 0.95), (0.15, 0.5)])
    tail = chance(rng, 0.3)
    if tail:
        lower = np.insert(lower, 5, [(0.5, 1.35), (0.35, 0.85)], axis=0)
    parts = []
    fold = pick(rng, (1.0, 1.0, rng.uniform(0.35, 0.8)))
    inset = rng.uniform(0.66, 0.85)
    dots = [(0.75, -0.78), (0.87, -0.62), (0.88, -0.42), (0.66, 0.62), (0.5, 0.76), (0.74, 0.42)]
    for wing, tall in ((lower, low), (upper, high)):
        shape = wing * (reach, tall)
        middle = shape.mean(0)
        for side in (np.array([1, 1]), np.array([-fold, 1])):
            parts.append(Part(spline(shape) * side, rim))
            parts.append(Part(spline((shape - middle) * inset + middle * 0.94) * side, inner))
            vein = flat(rim.colour, 0.0)
            tip = shape[len(shape) // 2] * 0.85
            parts.append(Part(stroke([(0.08, 0), tip], 0.03) * side, vein))
    for x, y in dots:
        spot = ellipse(x * reach, y * (high if y < 0 else low), 0.055, points=9)
        parts += [Part(spot, spots), Part(spot * (-fold, 1), spots)]
    body = flat(pick(rng, (BLACK, tinted(base, -0.7))), 0.5)
    feelers = curve([(0, -0.4), (0.12, -0.75), (0.32, -0.95)])
    parts += [Part(stroke(f, (0.025, 0.03, 0.06)), body) for f in (feelers, feelers * (-fold, 1))]
    parts.append(Part(ellipse(0, 0.12, 0.075, 0.52), body))
    return [*parts, Part(ellipse(0, -0.42, 0.1, points=12), body)]


def cat(rng: Rng) -> Parts:
    """A cat's face, or a cat sitting or walking."""
    coat = colour(rng, "orange", "grey", "black", "white", "brown", "beige")
    fur = surface(rng, coat, "", "zebra", "zebra", "patches", "mottle")
    fur = fur._replace(gloss=0.0)
    pale = flat(tinted(coat, 0.45), 0.3)
    dark = flat(tinted(coat, -0.55), 0.3)
    pink = flat(np.array([225, 150, 150], np.float32), 0.3)
    iris = flat(colour(rng, "lime", "yellow", "teal", "orange", free=0.1), 0.3)
    ear, wide = rng.uniform(0.85, 1.2), rng.uniform(0.72, 0.9)
    head: Parts = []
    for side in (1, -1):
        tip = (0.68 * wide, -ear)
        outer = np.array([(0.12, -0.5), tip, (0.85 * wide, -0.15)]) * (side, 1)
        head.append(Part(outer, fur))
        head.append(Part(outer * 0.62 + np.array([0.19 * side * wide, -0.2]), pink))
    face = [(0, -0.62), (0.5 * wide, -0.55), (wide, -0.05), (0.75 * wide, 0.42), (0.25, 0.66)]
    head.append(Part(spline(symmetric([*face, (0, 0.68)])), fur))
    for x, length in ((0, 0.3), (-0.17, 0.2), (0.17, 0.2)):
        head.append(Part(stroke([(x, -0.6), (0.8 * x, -0.6 + length)], (0.1, 0.02)), dark))
    for side in (1, -1):
        x = 0.36 * wide * side
        eye = ellipse(x, -0.06, 0.19, rng.uniform(0.12, 0.19), 12 * side, points=16)
        head += [Part(eye, dark), Part((eye - (x, -0.06)) * 0.82 + (x, -0.06), iris)]
        head.append(Part(ellipse(x, -0.06, rng.uniform(0.04, 0.1), 0.14, points=12), flat(BLACK)))
        head.append(Part(ellipse(x + 0.05, -0.12, 0.035, points=8), flat(WHITE)))
    for side in (1, -1):
        head.append(Part(ellipse(0.15 * side, 0.36, 0.2, 0.16), pale))
    head.append(Part(np.array([(-0.1, 0.17), (0.1, 0.17), (0, 0.3)]), pink))
    head.append(Part(stroke(curve([(-0.16, 0.44), (0, 0.3), (0.16, 0.44)]), 0.04), dark))
    for side in (1, -1):
        for drop in (-0.06, 0.04, 0.14):
            whisker = np.array([(0.25, 0.34 + drop / 2), (1.05, 0.28 + 1.5 * drop)]) * (side, 1)
            head.append(Part(stroke(whisker, (0.025, 0.012)), flat(WHITE, 0.0)))
    kind = pick(rng, ("face", "sitting", "sitting", "walking"))
    if kind == "face":
        return head
    if kind == "sitting":
        side = pick(rng, (-1, 1))
        tail = curve([(0.3, 1.9), (0.95, 1.9), (1.15, 1.4), (0.95, rng.uniform(0.7, 1.2))])
        body = spline(symmetric([(0, 0.3), (0.45, 0.5), (0.62, 1.2), (0.72, 1.8), (0, 2.0)]))
        parts = [Part(stroke(tail, (0.22, 0.24, 0.2)) * (side, 1), fur), Part(body, fur)]
        parts.append(Part(spline(symmetric([(0, 0.5), (0.22, 0.8), (0.2, 1.3), (0, 1.4)])), pale))
        for x in (-0.22, 0.22):
            leg = [(x * 1.2, 1.05), (x, 1.7), (x, 1.95)]
            parts.append(Part(stroke(leg, (0.3, 0.26, 0.3)), fur))
            parts.append(Part(ellipse(x, 1.95, 0.2, 0.11), pale))
        return parts + moved(head, 0.85)
    legs = [(-1.05, -0.12), (-0.8, 0.1), (0.25, -0.1), (0.5, 0.12)]
    tail = curve([(-1.0, 0.2), (-1.5, 0.1), (-1.7, -0.4), (-1.5, rng.uniform(-1.0, -0.6))])
    parts = [Part(stroke(tail, (0.24, 0.2, 0.16)), fur)]
    for x, sway in legs:
        parts.append(Part(stroke([(x, 0.5), (x + sway, 1.15)], (0.32, 0.2)), fur))
        parts.append(Part(ellipse(x + sway + 0.06, 1.17, 0.16, 0.09), pale))
    body = [
        (-1.15, 0.1),
        (-0.5, 0.0),
        (0.3, 0.05),
        (0.7, 0.1),
        (0.65, 0.7),
        (-0.3, 0.8),
        (-1.1, 0.7),
    ]
    parts.append(Part(spline(body), fur))
    return parts + moved(head, 0.62, 0.75, -0.15)


def fish(rng: Rng) -> Parts:
    """A fish from the side."""
    base = colour(rng, "orange", "blue", "grey", "yellow", "red")
    skin = surface(rng, base, "", "scales", "scales", "zebra", "stripes", "speckle", relief=0.7)
    skin = skin._replace(turn=pick(rng, (0.0, np.pi / 2)))
    fin = surface(rng, tinted(base, rng.uniform(-0.35, 0.35)), "", "pinstripes", relief=0.3)
    belly = flat(tinted(base, 0.55), 0.2)
    tall, long = rng.uniform(0.32, 0.75), rng.uniform(0.85, 1.05)
    fork, spread = rng.uniform(0.1, 0.45), rng.uniform(0.35, 0.65)
    tail = [(-0.75 * long, 0), (-1.1, -spread), (-1.4, -spread * 1.1), (-1.4 + fork, 0)]
    tail += [(-1.4, spread * 1.1), (-1.1, spread)]
    ridge = rng.uniform(0.15, 0.5)
    top = [(0.45, -0.6 * tall), (0.1, -tall - ridge), (-0.45, -tall - 0.6 * ridge), (-0.65, -0.2)]
    low = [(0.1, 0.7 * tall), (-0.15, tall + 0.8 * ridge), (-0.4, tall + 0.5 * ridge), (-0.4, 0.1)]
    body = [(long, 0.02), (0.65 * long, -0.55 * tall), (0, -tall), (-0.55, -0.5 * tall)]
    body += [(-0.9 * long, -0.12), (-0.9 * long, 0.12), (-0.55, 0.5 * tall), (0, tall)]
    body += [(0.65 * long, 0.6 * tall)]
    under = [(0.8 * long, 0.35 * tall), (0.1, 0.45 * tall), (-0.6, 0.25 * tall), (0, 0.95 * tall)]
    side = [(0.32, 0.05), (0.1, 0.22), (-0.25, 0.32), (-0.22, 0.02), (0.05, -0.05)]
    gill = curve([(0.48, -0.45 * tall), (0.36, 0.05), (0.48, 0.5 * tall)])
    mouth = stroke([(long, 0.1), (long - 0.2, 0.16)], 0.04)
    dark = flat(tinted(base, -0.5), 0.0)
    return [
        Part(spline(tail), fin),
        Part(spline(top), fin),
        Part(spline(low), fin),
        Part(spline(body), skin),
        Part(spline(under), belly),
        Part(stroke(gill, 0.05), dark),
        Part(spline(side), fin._replace(colour=tinted(fin.colour, -0.15))),
        Part(mouth, dark),
        *_eye(0.66 * long, -0.15 * tall - 0.03, rng.uniform(0.09, 0.14)),
    ]


def snail(rng: Rng) -> Parts:
    """A snail with its shell."""
    skin = colour(rng, "beige", "brown", "grey", "lime")
    flesh = surface(rng, skin, "", "mottle", "cells", "grain")
    tint = colour(rng, "brown", "orange", "beige", "yellow", "pink")
    shell = surface(rng, tint, "", "", "cloud", "mottle", "stripes", relief=0.9)
    groove = flat(tinted(tint, -0.55), 0.0)
    radius, high = rng.uniform(0.6, 0.8), rng.uniform(0.25, 0.45)
    body = [
        (-1.35, 0.72),
        (-0.7, 0.35),
        (0.2, 0.3),
        (0.7, 0.3),
        (0.95, -high),
        (1.25, -high - 0.12),
    ]
    body += [(1.42, 0.05), (1.25, 0.55), (0.9, 0.75), (-0.4, 0.78)]
    parts: Parts = []
    for x, lean in ((1.15, 0.0), (1.3, 0.22)):
        tip = (x + lean, -high - rng.uniform(0.45, 0.7))
        stalk = stroke([(x - 0.05, -high), tip], (0.1, 0.06))
        parts += [Part(stalk, flesh), Part(ellipse(*tip, 0.08, points=10), flat(BLACK))]
    parts.append(Part(spline(body), flesh))
    parts.append(Part(stroke([(1.38, 0.18), (1.22, 0.26)], 0.04), flat(tinted(skin, -0.5), 0.0)))
    turns = np.linspace(0.3, 2 * np.pi * rng.uniform(2.1, 2.8), 56)
    reach = radius * (turns / turns[-1]) ** 0.85 * 0.97
    start = rng.uniform(0.2, 1.0)
    x, y = -0.2, -0.05
    squash = rng.uniform(0.88, 1.05)
    # Opening of the shell, then whorls from the outside in.
    lip = spline([(x + 0.5 * radius, -0.2), (x + 1.15 * radius, 0.35), (x + 0.4, 0.5), (x, 0.4)])
    parts.append(Part(lip, shell._replace(colour=tinted(tint, -0.2))))
    parts.append(Part(ellipse(x, y, radius, radius * squash, points=32), shell))
    for i, ratio in enumerate((0.7, 0.45, 0.22)):
        tone = shell._replace(colour=tinted(tint, 0.12 * (i + 1)))
        inner = ellipse(x + 0.06 * radius * i, y, radius * ratio, radius * ratio * squash)
        parts.append(Part(inner, tone))
    spiral = np.stack([reach * np.cos(turns + start), reach * np.sin(turns + start) * squash], 1)
    parts.append(Part(stroke(spiral + (x, y), (0.03, 0.09)), groove))
    return parts
