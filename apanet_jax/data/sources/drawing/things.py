"""The classes of the synthetic pictures by name, in the order of their numbers."""

from collections.abc import Callable
from typing import NamedTuple

from apanet_jax.data.sources.drawing import animals, household, outdoors, plants
from apanet_jax.data.sources.drawing.brush import Parts
from apanet_jax.data.sources.drawing.colours import Rng


class Thing(NamedTuple):
    """A class of things.

    Attributes:
        draw: draws one at random.
        tilt: how far it stands from upright, degrees (standard deviation; 180: any way round).
    """

    draw: Callable[[Rng], Parts]
    tilt: float


# Alphabetical, like PASCAL VOC's; five in a row make a fold.
THINGS = {
    "apple": Thing(plants.apple, 25),
    "banana": Thing(plants.banana, 180),
    "bird": Thing(animals.bird, 10),
    "bottle": Thing(household.bottle, 20),
    "butterfly": Thing(animals.butterfly, 180),
    "cactus": Thing(plants.cactus, 7),
    "car": Thing(outdoors.car, 7),
    "cat": Thing(animals.cat, 10),
    "clock": Thing(household.clock, 12),
    "fish": Thing(animals.fish, 20),
    "flower": Thing(plants.flower, 30),
    "guitar": Thing(household.guitar, 180),
    "house": Thing(outdoors.house, 5),
    "lamp": Thing(household.lamp, 8),
    "mug": Thing(household.mug, 12),
    "mushroom": Thing(plants.mushroom, 15),
    "sailboat": Thing(outdoors.sailboat, 9),
    "snail": Thing(animals.snail, 15),
    "teapot": Thing(household.teapot, 12),
    "umbrella": Thing(outdoors.umbrella, 40),
}
