"""What one training is made of."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from apanet_jax.config.definitions import ModelSettings, TrainingSettings
from apanet_jax.data.loader import EpisodeIterator
from apanet_jax.evaluation.metrics import Scores
from apanet_jax.models.network import Parameters
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.programs import Programs
from apanet_jax.training.train_step import (
    TrainState,
    create_state,
    optimizer,
    poly_schedule,
)
from apanet_jax.weights.network import LoadedNetwork


class Progress(Protocol):
    """Shows people how far a training has come; a context manager."""

    def __enter__(self) -> Any:
        """Begins."""

    def __exit__(self, *error) -> None:
        """Ends, whatever happened."""

    def update(self) -> None:
        """Shows what the workdir holds now."""


@dataclasses.dataclass(frozen=True)
class TrainingTask:
    """One training: its episodes, its network, and what is watched on the way.

    Attributes:
      settings: of the optimisation.
      model: of the head.
      seed: of initialisation, dropout, clustering and negatives.
      fold: whose classes are novel.
      novel: their names.
      image_size: side of the images, in pixels.
      steps: how many there are.
      loaded: the network, with the backbone's parameters.
      batches: from the number of the first batch to the batches.
      validate: scores a head on validation episodes; None: it is never validated.
      validate_every: steps between validations.
      config: what is left as `config.json`.
      fingerprint: of everything that the trained parameters depend on.
      backbone: its name.
      programs: compiled functions, shared with trainings of the same network.
    """

    settings: TrainingSettings
    model: ModelSettings
    seed: int
    fold: int
    novel: tuple[str, ...]
    image_size: int
    steps: int
    loaded: LoadedNetwork
    batches: Callable[[int], EpisodeIterator]
    validate: Callable[[Parameters], Scores] | None
    validate_every: int
    config: Mapping[str, Any]
    fingerprint: str
    backbone: str
    programs: Programs

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self.loaded.mesh

    @property
    def schedule(self) -> optax.Schedule:
        """The learning rate of each step, counted from 0; the same object for trainings alike."""
        base = self.settings.learning_rate * self.settings.rate_factor
        return self.programs(poly_schedule, base, self.steps)

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimizer; the same object for trainings alike."""
        return self.programs(
            optimizer, self.schedule, self.settings.momentum, self.settings.weight_decay
        )

    @property
    def key(self) -> PRNGKeyArray:
        """What the steps draw from, on every device."""
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        # Keys themselves cannot be put onto the devices of other processes.
        words = np.asarray(jax.random.key_data(key))
        return jax.random.wrap_key_data(
            jax.device_put(words, replicated(self.mesh)), impl=jax.random.key_impl(key)
        )

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, on every device."""
        state = create_state(
            self.loaded.network,
            self.loaded.backbone_parameters,
            self.image_size,
            self.transformation,
            jax.random.key(self.seed),
            self.programs,
        )
        return jax.device_put(state, replicated(self.mesh))
