"""Drawings of car, house, sailboat and umbrella.

Each function draws one at random, in the plane of `brush.Part`. Where several makes exist
(songbird, wader), one is drawn. Colours and textures come from the same families for every
class, so that neither tells what an object is.
"""

import numpy as np

from apanet_jax.data.sources.drawing.brush import Part, Parts, flat, surface
from apanet_jax.data.sources.drawing.colours import (
    BLACK,
    GLASS,
    WHITE,
    Rng,
    chance,
    colour,
    pick,
    tinted,
)
from apanet_jax.data.sources.drawing.outlines import (
    box,
    curve,
    ellipse,
    spline,
    stroke,
    symmetric,
    turned,
)


def car(rng: Rng) -> Parts:
    """A car (sedan, hatchback, van, pickup) from the side, or one from the front."""
    coat = colour(rng, "red", "blue", "white", "grey", "yellow", "black")
    body_paint = surface(rng, coat, "", "", "", "", "checker", "stripes", "cloud", relief=0.5)
    body_paint = body_paint._replace(gloss=rng.uniform(0.2, 0.8))
    window = flat(tinted(GLASS, rng.uniform(-0.75, 0.1)), 0.3, 0.8)
    trim, tyre = flat(tinted(coat, -0.45), 0.2), flat(BLACK, 0.7)
    hub = flat(np.array([190, 192, 195], np.float32) * rng.uniform(0.6, 1.1), 0.6)
    kind = pick(rng, ("sedan", "hatch", "van", "pickup", "front"))
    if kind == "front":
        hood = rng.uniform(0.55, 0.75)
        parts = [Part(box(x - 0.17, 0.4, x + 0.17, 0.95, 0.08), tyre) for x in (-0.65, 0.65)]
        roof = [(0, -0.75), (hood * 0.8, -0.72), (hood * 1.25, -0.1), (0, -0.05)]
        parts.append(Part(spline(symmetric(roof), 4), body_paint))
        glass = symmetric([(0, -0.62), (hood * 0.68, -0.58), (hood * 0.98, -0.1), (0, -0.08)])
        parts.append(Part(glass, window))
        parts.append(Part(box(-0.92, -0.12, 0.92, 0.72, 0.22), body_paint))
        parts.append(Part(box(-0.42, 0.18, 0.42, 0.42, 0.08), flat(BLACK, 0.2)))
        parts += [Part(stroke([(-0.4, y), (0.4, y)], 0.03), hub) for y in (0.24, 0.3, 0.36)]
        parts.append(Part(box(-0.95, 0.5, 0.95, 0.66, 0.07), hub))
        parts.append(Part(box(-0.24, 0.5, 0.24, 0.63), flat(WHITE, 0.0)))
        lamp = flat(np.array([250, 245, 215], np.float32), 0.5, 0.8)
        for side in (-1, 1):
            parts.append(Part(ellipse(0.68 * side, 0.26, 0.17, 0.15), trim))
            parts.append(Part(ellipse(0.68 * side, 0.26, 0.14, 0.12), lamp))
            parts.append(Part(ellipse(1.02 * side, -0.12, 0.12, 0.08), trim))
        return parts
    length, sill = rng.uniform(1.35, 1.6), 0.42
    roof, bonnet = rng.uniform(-0.62, -0.48), rng.uniform(-0.12, 0.02)
    nose, rear = length - rng.uniform(0.0, 0.12), -length
    if kind == "sedan":
        cabin = [(-0.95, bonnet), (-0.55, roof), (0.3, roof), (0.78, bonnet)]
    elif kind == "hatch":
        cabin = [(rear + 0.08, bonnet), (rear + 0.3, roof), (0.3, roof), (0.75, bonnet)]
    elif kind == "van":
        roof -= 0.2
        cabin = [(rear + 0.05, bonnet), (rear + 0.1, roof), (0.65, roof), (1.05, bonnet)]
    else:
        cabin = [(-0.2, bonnet), (-0.12, roof), (0.4, roof), (0.8, bonnet)]
    hull = [(rear, sill), (rear - 0.03, bonnet + 0.2), (rear + 0.1, bonnet), *cabin]
    hull += [(nose - 0.15, bonnet + 0.1), (nose, bonnet + 0.25), (nose, sill)]
    parts = [Part(np.array(hull), body_paint)]
    glass = np.array(cabin)
    middle = glass.mean(0)
    inner = (glass - middle) * (0.84, 0.7) + middle + (0, -0.02)
    parts.append(Part(inner, window))
    left, right = cabin[1][0], cabin[2][0]
    posts = (0.5,) if kind == "pickup" else (0.35, 0.72)
    for share in posts:
        x = left + share * (right - left)
        parts.append(Part(box(x - 0.04, roof, x + 0.04, bonnet + 0.04), body_paint))
        parts.append(Part(stroke([(x, bonnet), (x + 0.04, sill - 0.05)], 0.025), trim))
        handle = box(x - 0.22, bonnet + 0.12, x - 0.09, bonnet + 0.16, 0.02)
        parts.append(Part(handle, trim))
    parts.append(Part(box(rear, sill - 0.12, nose, sill), trim))
    light = flat(np.array([250, 240, 200], np.float32), 0.4, 0.8)
    parts.append(Part(ellipse(nose - 0.1, bonnet + 0.28, 0.12, 0.08), light))
    red = flat(np.array([200, 30, 25], np.float32), 0.4)
    parts.append(Part(box(rear - 0.02, bonnet + 0.1, rear + 0.1, bonnet + 0.28), red))
    size = rng.uniform(0.27, 0.36)
    for x in (rear + 0.52, nose - 0.52):
        parts.append(Part(ellipse(x, sill, size * 1.2, start=180), flat(BLACK, 0.0)))
        parts.append(Part(ellipse(x, sill + 0.04, size), tyre))
        parts.append(Part(ellipse(x, sill + 0.04, size * 0.6), hub))
        for angle in range(0, 180, 36):
            spoke = turned(np.array([(-size * 0.5, 0), (size * 0.5, 0)]), angle)
            parts.append(Part(stroke(spoke + (x, sill + 0.04), 0.035), trim))
        parts.append(Part(ellipse(x, sill + 0.04, size * 0.15, points=10), trim))
    return parts


def house(rng: Rng) -> Parts:
    """A house from the gable end or at an angle."""
    wall = surface(
        rng, colour(rng, "white", "beige", "red", "yellow"), "bricks", "planks", "", "grain"
    )
    wall = wall._replace(relief=0.25, gloss=0.0, turn=pick(rng, (0.0, np.pi / 2)))
    roof = surface(
        rng, colour(rng, "red", "brown", "grey", "blue"), "scales", "bricks", "tiles", ""
    )
    roof = roof._replace(relief=0.35, gloss=0.0, turn=0.0)
    trim, door = (
        flat(c, 0.2) for c in (colour(rng, "white", "brown"), colour(rng, "brown", "red"))
    )
    pane = flat(tinted(GLASS, rng.uniform(-0.6, 0.2)), 0.2, 0.5)
    wide, tall, peak = rng.uniform(0.6, 0.95), rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.95)
    deep = rng.uniform(0.5, 1.1) if chance(rng, 0.55) else 0.0
    parts: Parts = []

    def window(x: float, y: float, rx: float, ry: float) -> Parts:
        cross = [stroke([(x - rx, y), (x + rx, y)], 0.04), stroke([(x, y - ry), (x, y + ry)], 0.04)]
        frame = box(x - rx - 0.05, y - ry - 0.05, x + rx + 0.05, y + ry + 0.05)
        glass = box(x - rx, y - ry, x + rx, y + ry)
        return [Part(frame, trim), Part(glass, pane), *(Part(c, trim) for c in cross)]

    if chance(rng, 0.7):
        x = rng.uniform(-0.6, 0.6) * wide
        stack = surface(rng, colour(rng, "red", "brown", "grey"), "bricks", "")._replace(relief=0.2)
        parts.append(Part(box(x - 0.11, -peak - 0.2, x + 0.11, 0), stack))
        parts.append(Part(box(x - 0.15, -peak - 0.28, x + 0.15, -peak - 0.18), trim))
    if deep:
        # The long side, seen at an angle, in the shade.
        shade = wall._replace(colour=tinted(wall.colour, -0.25))
        parts.append(
            Part(np.array([(wide, 0), (wide + deep, 0), (wide + deep, tall), (wide, tall)]), shade)
        )
        slope = [(0, -peak), (deep, -peak), (wide + deep + 0.08, 0.06), (wide + 0.1, 0.1)]
        parts += window(wide + deep / 2, 0.45 * tall, 0.13, 0.18)
    gable = [(-wide, tall), (-wide, 0), (0, -peak), (wide, 0), (wide, tall)]
    parts.append(Part(np.array(gable), wall))
    if deep:
        parts.append(Part(np.array(slope), roof))
        parts.append(
            Part(stroke([(-wide - 0.12, 0.1), (0, -peak), (wide + 0.12, 0.1)], 0.12), trim)
        )
    else:
        hip = rng.uniform(0.0, 0.7) * wide
        top = [(-wide - 0.15, 0.06), (-hip, -peak), (hip, -peak), (wide + 0.15, 0.06)]
        parts.append(Part(np.array(top), roof))
    x = pick(rng, (0.0, -0.4 * wide, 0.4 * wide))
    half = 0.24 * wide
    parts.append(Part(box(x - half, tall - 0.62, x + half, tall), door))
    parts.append(Part(ellipse(x + 0.6 * half, tall - 0.28, 0.035, points=8), trim))
    for side in (-1, 1):
        spot = 0.62 * wide * side
        if abs(spot - x) > half + 0.2 * wide:
            parts += window(spot, 0.4 * tall, 0.17 * wide, 0.2)
    if deep or peak > 0.75:
        parts += window(0, -0.25 * peak, 0.12, 0.13)
    return parts


def sailboat(rng: Rng) -> Parts:
    """A boat with one or two sails."""
    planks = surface(
        rng, colour(rng, "brown", "red", "blue", "white", "black"), "wood", "planks", ""
    )
    planks = planks._replace(turn=np.pi / 2)
    sail = surface(
        rng, colour(rng, "white", "white", "red", "beige"), "", "", "stripes", "pinstripes"
    )
    jib = surface(rng, colour(rng, "white", "orange", free=0.3), "", "stripes", "cloud")
    mast = flat(colour(rng, "brown", "grey", free=0.1), 0.5)
    tall, step = rng.uniform(1.4, 1.9), rng.uniform(-0.1, 0.25)
    bow, deep = rng.uniform(0.95, 1.2), rng.uniform(0.3, 0.48)
    parts = [Part(stroke([(step, 0.55), (step, -tall)], (0.08, 0.05)), mast)]
    swell = rng.uniform(0.05, 0.25)
    back = rng.uniform(0.8, 1.15)
    main = curve(
        [(step - 0.05, -tall + 0.1), (step - 0.5 - swell, -0.4 * tall), (step - back, 0.28)]
    )
    parts.append(Part(np.concatenate([main, [(step - 0.05, 0.25)]]), sail))
    if chance(rng, 0.8):
        top = -tall + rng.uniform(0.15, 0.5)
        fore = curve([(bow - 0.1, 0.3), (step + 0.45, -0.35 * tall), (step + 0.06, top)])
        parts.append(Part(np.concatenate([fore, [(step + 0.12, 0.22)]]), jib))
    parts.append(Part(stroke([(step + 0.05, 0.32), (step - back, 0.32)], 0.06), mast))
    hull = [
        (-1.05, 0.45),
        (0, 0.52),
        (bow, 0.4),
        (0.75 * bow, 0.5 + 0.8 * deep),
        (0.4, 0.55 + deep),
    ]
    hull += [(-0.75, 0.55 + deep), (-0.98, 0.5 + 0.7 * deep)]
    parts.append(Part(np.array(hull), planks))
    stripe = stroke(curve([(-1.03, 0.53), (0, 0.6), (bow - 0.04, 0.48)]), 0.07)
    parts.append(Part(stripe, flat(colour(rng, "white", "red"), 0.1)))
    if chance(rng, 0.5):
        flag = np.array([(step, -tall), (step - 0.4, -tall + 0.1), (step, -tall + 0.22)])
        parts.append(Part(flag, flat(colour(rng, "red"), 0.2)))
    if chance(rng, 0.4):
        parts.append(Part(box(-0.6, 0.3, -0.1, 0.5, 0.04), flat(colour(rng, "white"), 0.4)))
    return parts


def umbrella(rng: Rng) -> Parts:
    """An open umbrella, plain or with panels of two colours."""
    cloth = surface(rng, colour(rng, "red", "blue", "black", "yellow"), "", "", "dots", "plaid")
    cloth = cloth._replace(relief=0.45)
    second = cloth
    if chance(rng, 0.6):
        second = cloth._replace(colour=colour(rng, "white", "yellow"), texture="")
    shaft = flat(colour(rng, "brown", "black", "grey", free=0.1), 0.5)
    tall, foot = rng.uniform(0.6, 0.95), rng.uniform(0.95, 1.3)
    hook = curve([(0, 0), (0, foot), (0.12, foot + 0.17), (0.26, foot + 0.02)])
    parts = [Part(stroke(hook, (0.05, 0.06, 0.09, 0.09)), shaft)]
    panels = pick(rng, (4, 5, 6))
    # Ribs meet at the tip; seen from the side they crowd towards the edges.
    ends = np.sin(np.linspace(-np.pi / 2, np.pi / 2, panels + 1)) * 1.1
    inside = np.concatenate([ellipse(0, 0, 1.1, 0.14, 0, 0, 180), [(-1.1, 0), (1.1, 0)]])
    parts.append(Part(inside * (0.97, 1.0), flat(tinted(cloth.colour, -0.55), 0.0)))
    crown = ellipse(0, 0, 1.1, tall, 0, 180, 360, 32)
    parts.append(Part(crown, cloth))
    for i in range(panels):
        left, right = ends[i], ends[i + 1]
        t = np.linspace(0, np.pi / 2, 8)
        rib = [np.stack([x * np.sin(t), -tall * np.cos(t)], 1) for x in (left, right)]
        middle = ((left + right) / 2, -0.13)
        scallop = curve([(right, 0.0), middle, (left, 0.0)], 4)
        panel = np.concatenate([rib[0][::-1][-1:], rib[1][1:], scallop, rib[0][::-1]])
        own = cloth if i % 2 == 0 else second
        parts.append(Part(panel, own._replace(colour=tinted(own.colour, -0.05 * (i % 2)))))
    seam = flat(tinted(cloth.colour, -0.4), 0.0)
    for x in ends[1:-1]:
        t = np.linspace(0, np.pi / 2, 8)
        line = np.stack([x * np.sin(t), -tall * np.cos(t)], 1)
        parts.append(Part(stroke(line, 0.025), seam))
    return [*parts, Part(stroke([(0, -tall), (0, -tall - 0.16)], (0.08, 0.03)), shaft)]
