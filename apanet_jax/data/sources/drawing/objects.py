"""The classes of the synthetic images by name, in the order of their numbers."""

from collections.abc import Callable
from typing import NamedTuple

from apanet_jax.data.sources.drawing import animals, household, outdoors, plants
from apanet_jax.data.sources.drawing.brush import Parts
from apanet_jax.data.sources.drawing.colours import Rng


class ObjectClass(NamedTuple):
    """A class of objects.

    Attributes:
        draw: draws one at random.
        tilt: how far it stands from upright, degrees (standard deviation; 180: any way round).
    """

    draw: Callable[[Rng], Parts]
    tilt: float


# Alphabetical, like PASCAL VOC's; five in a row make a fold.
OBJECTS = {
    "apple": ObjectClass(plants.apple, 25),
    "banana": ObjectClass(plants.banana, 180),
    "bird": ObjectClass(animals.bird, 10),
    "bottle": ObjectClass(household.bottle, 20),
    "butterfly": ObjectClass(animals.butterfly, 180),
    "cactus": ObjectClass(plants.cactus, 7),
    "car": ObjectClass(outdoors.car, 7),
    "cat": ObjectClass(animals.cat, 10),
    "clock": ObjectClass(household.clock, 12),
    "fish": ObjectClass(animals.fish, 20),
    "flower": ObjectClass(plants.flower, 30),
    "guitar": ObjectClass(household.guitar, 180),
    "house": ObjectClass(outdoors.house, 5),
    "lamp": ObjectClass(household.lamp, 8),
    "mug": ObjectClass(household.mug, 12),
    "mushroom": ObjectClass(plants.mushroom, 15),
    "sailboat": ObjectClass(outdoors.sailboat, 9),
    "snail": ObjectClass(animals.snail, 15),
    "teapot": ObjectClass(household.teapot, 12),
    "umbrella": ObjectClass(outdoors.umbrella, 40),
}
