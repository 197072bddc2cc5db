"""Random choices and the families of colours that every drawn object shares."""

import colorsys
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float32

T = TypeVar("T")
Rng = np.random.Generator
Colour = Float32[np.ndarray, "3"]

BLACK: Colour = np.array([28, 26, 26], np.float32)
WHITE: Colour = np.array([245, 244, 240], np.float32)
GLASS: Colour = np.array([170, 205, 225], np.float32)

# Hue, saturation and value ranges. Every class draws on the same families.
COLOURS = {
    "red": ((-0.03, 0.02), (0.65, 0.95), (0.55, 0.9)),
    "orange": ((0.05, 0.09), (0.7, 0.95), (0.75, 0.95)),
    "yellow": ((0.12, 0.16), (0.6, 0.9), (0.8, 0.98)),
    "lime": ((0.19, 0.26), (0.5, 0.8), (0.55, 0.85)),
    "green": ((0.28, 0.42), (0.4, 0.8), (0.3, 0.65)),
    "teal": ((0.45, 0.53), (0.45, 0.8), (0.4, 0.75)),
    "blue": ((0.56, 0.66), (0.5, 0.85), (0.4, 0.85)),
    "violet": ((0.7, 0.8), (0.35, 0.7), (0.4, 0.75)),
    "pink": ((0.88, 0.96), (0.35, 0.7), (0.75, 0.95)),
    "brown": ((0.05, 0.09), (0.45, 0.7), (0.3, 0.55)),
    "beige": ((0.08, 0.13), (0.15, 0.4), (0.7, 0.9)),
    "grey": ((0.0, 1.0), (0.0, 0.1), (0.35, 0.7)),
    "white": ((0.0, 1.0), (0.0, 0.07), (0.86, 0.98)),
    "black": ((0.0, 1.0), (0.0, 0.2), (0.08, 0.2)),
}
_FAMILIES = tuple(COLOURS)


def chance(rng: Rng, probability: float) -> bool:
    """True with this probability."""
    return rng.random() < probability


def pick(rng: Rng, choices: Sequence[T]) -> T:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def colour(rng: Rng, *natural: str, free: float = 0.45) -> Colour:
    """Draws a colour: of a family named in `natural`, or with probability `free` of any.

    Returns:
        RGB, 0..255.
    """
    family = pick(rng, natural) if natural and not chance(rng, free) else pick(rng, _FAMILIES)
    hue, saturation, value = (low + (high - low) * rng.random() for low, high in COLOURS[family])
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32) * 255


def tinted(rgb: Colour, amount: float) -> Colour:
    """The colour nearer to black (amount -1..0) or to white (0..1)."""
    target = np.float32(0 if amount < 0 else 255)
    return rgb + (target - rgb) * np.float32(abs(amount))
