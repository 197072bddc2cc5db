"""Episodes as files, so that another program can be scored on the very same ones.

A line is one episode, in JSON: the names of the query, the class and the supports, and, where the
episode was scored, the pixels of background and foreground in intersection and union:

    {"query": "2007_000033", "class": "aeroplane", "supports": ["2007_000243"],
     "intersection": [165012, 9321], "union": [170310, 14619]}

What was scored can be given back as a list; its counts are not looked at then.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from apanet_jax.data.episodes import Episode
from apanet_jax.data.records.reading import Records
from apanet_jax.runtime.atomic_files import writing
from apanet_jax.runtime.errors import UserError


def write_episodes(
    path: Path,
    records: Records,
    episodes: Iterable[Episode],
    counts: tuple[Int[np.ndarray, "episodes 2"], Int[np.ndarray, "episodes 2"]],
) -> None:
    """Writes test episodes with their counts, whole or not at all.

    Args:
      path: of the file; its folder is made where it is missing.
      records: what the episodes' numbers mean.
      episodes: in the order of `counts`.
      counts: pixels in intersection and in union, each of background and foreground.
    """
    names = records.split("val").names
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        for episode, intersection, union in zip(episodes, *counts, strict=True):
            line = {
                "query": names[episode.query],
                "class": records.class_names[episode.class_id - 1],
                "supports": [names[support] for support in episode.supports],
                "intersection": [int(pixels) for pixels in intersection],
                "union": [int(pixels) for pixels in union],
            }
            file.write(json.dumps(line) + "\n")


def read_episodes(path: Path, records: Records, classes: Iterable[int]) -> tuple[Episode, ...]:
    """Reads a list of test episodes; its images are those of the records' "val" list.

    Args:
      path: of the file.
      records: what the names stand for.
      classes: ids of the classes that may be asked for.

    Raises:
      UserError: there is no such file, or a line in it cannot be an episode; says which and why.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list of episodes {path} cannot be read: {error}") from None
    split = records.split("val")
    numbers = {name: number for number, name in enumerate(split.names)}
    ids = {records.class_names[c - 1]: c for c in classes}
    episodes = []
    for count, line in enumerate(lines, 1):
        try:
            episode = _episode(line, numbers, ids)
            for support in episode.supports:
                if not split.areas[support, episode.class_id]:
                    raise _Refused(f"no pixel of the class in the support {split.names[support]!r}")
            if episodes and len(episode.supports) != len(episodes[0].supports):
                raise _Refused(
                    f"{len(episode.supports)} supports, and {len(episodes[0].supports)} in line 1"
                )
        except _Refused as error:
            raise UserError(f"line {count} of {path} is no test episode: {error}") from None
        episodes.append(episode)
    if not episodes:
        raise UserError(f"{path} holds no episode: expected a line of JSON for each")
    return tuple(episodes)


class _Refused(Exception):
    """What is wrong with a line."""


def _episode(line: str, numbers: dict[str, int], ids: dict[str, int]) -> Episode:
    try:
        content = json.loads(line)
        query, class_name, supports = (content[key] for key in ("query", "class", "supports"))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Refused('expected {"query": NAME, "class": NAME, "supports": [NAME, …]}') from None
    if not isinstance(supports, list) or not supports:
        raise _Refused(f"its supports are {supports!r}, expected a list of names")
    if not _known(class_name, ids):
        raise _Refused(f"the class {class_name!r} is none of the fold's: {', '.join(ids)}")
    for name in (query, *supports):
        if not _known(name, numbers):
            raise _Refused(f"the test images have none of the name {name!r}")
    if len({query, *supports}) <= len(supports):
        raise _Refused("query and supports are not all different")
    return Episode(numbers[query], ids[class_name], tuple(numbers[name] for name in supports))


def _known(name: Any, known: dict[str, int]) -> bool:
    return isinstance(name, str) and name in known
