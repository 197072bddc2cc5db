"""Exports a trained head: its tensors, settings and model card, with `--program` all of it."""

from pathlib import Path

from safetensors.numpy import save

from apanet_jax.config.saved import FILE, json_settings
from apanet_jax.evaluation.results import RESULTS, read_results
from apanet_jax.inference.heads.model_card import model_card, with_program
from apanet_jax.inference.heads.program import PLATFORMS, check_program, describe, make_program
from apanet_jax.inference.heads.saved_head import (
    DECISION,
    WEIGHTS,
    SavedHead,
    is_exported,
    open_head,
)
from apanet_jax.inference.matching.head_matcher import HeadMatcher
from apanet_jax.runtime.atomic_files import cannot_write, json_bytes, write_bytes
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.head import head_tensors

CARD, SETTINGS, PROGRAM = "README.md", FILE, "program.jax"

SIZES, SHOTS = (65, 4097), (1, 100)
"""Smallest and largest square of a program, in pixels, and number of its supports."""


def export(
    workdir: Path,
    output: Path,
    checkpoint: str | None = None,
    *,
    program: bool = False,
    size: int | None = None,
    shots: int | None = None,
) -> Path:
    """Writes a head as safetensors, its settings (without paths), and a model card.

    Tensors have PyTorch's names and layouts, see `weights.head`. The backbone is not among them: it
    is frozen, and the tensors' metadata and the card say which weights it had.

    Args:
      workdir: of a single run, or of a head that was exported before, whose files are copied.
      output: folder of the files; it is made where it is missing.
      checkpoint: "best" on validation, or "last"; None: the best where there is one.
      program: whether to write the whole network too, see `program.make_program`.
      size: side of the program's squares, in pixels; None: as `SavedHead.matcher` chooses.
      shots: number of the program's supports; None: as many as the head was trained with.

    Returns:
      `output`.

    Raises:
      UserError: there is no such run or checkpoint, it cannot be written, or the program does not
        give what the network gives; files are written after all that, each whole or not at all.
    """
    _check_program_options(program, size=size, shots=shots)
    if not program and (output / PROGRAM).exists():
        raise UserError(
            f"{output / PROGRAM} is of an earlier export, perhaps of another head: add --program "
            "to write it again, or remove it"
        )
    if not is_exported(output):
        _check_free(output)
    if is_exported(workdir):
        if checkpoint:
            raise UserError(f"--checkpoint={checkpoint}: {workdir} is an exported head, not a run")
        head = open_head(workdir) if program else None
        files = _files_of_head(workdir)
    else:
        head = open_head(workdir, checkpoint)
        files = _files_of_run(workdir, head)
    described = None
    if program:
        files[PROGRAM], described = _program(head.matcher(size), shots or head.settings.shot)
    files[CARD] = with_program(files[CARD].decode(), described).encode()
    with cannot_write(output):
        output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(output / name, content)
    return output


def _check_free(output: Path) -> None:
    """Refuses a folder whose files an export would replace and that no export wrote."""
    if there := [name for name in (CARD, SETTINGS) if (output / name).exists()]:
        raise UserError(
            f"{output} holds a {' and a '.join(there)} that no export wrote, and that would be "
            "replaced: name another folder"
        )


def _check_program_options(program: bool, **options: int | None) -> None:
    if not program and any(value is not None for value in options.values()):
        raise UserError("--size and --shots are of the program: add --program, or leave them out")
    for (name, value), (least, most) in zip(options.items(), (SIZES, SHOTS), strict=True):
        if value is not None and not least <= value <= most:
            raise UserError(f"--{name}={value}: expected {least} to {most}")


def _files_of_run(workdir: Path, head: SavedHead) -> dict[str, bytes]:
    """Returns the content of the files of a run's head by their names."""
    tensors = head_tensors(head.parameters, head.network.head)
    scored = read_results(workdir) if (workdir / RESULTS).exists() else []
    results = [row for row in scored if row["checkpoint"] == head.checkpoint]
    metadata = {"format": "pt", "checkpoint": head.checkpoint, "step": str(head.step)}
    return {
        WEIGHTS: save(tensors, metadata | head.backbone_weights.as_metadata()),
        SETTINGS: json_bytes(json_settings(head.settings, paths=False)),
        CARD: model_card(
            head.settings, tensors, results, head.checkpoint, head.step, head.backbone_weights
        ).encode(),
    }


def _files_of_head(folder: Path) -> dict[str, bytes]:
    """Returns the files of an exported head."""
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} holds an exported head without its {CARD}: export it again")
    names = [WEIGHTS, SETTINGS, CARD] + [DECISION] * (folder / DECISION).is_file()
    return {name: (folder / name).read_bytes() for name in names}


def _program(matcher: HeadMatcher, shots: int) -> tuple[bytes, str]:
    """Makes and checks a program; returns it with what the card says of it."""
    print(
        f"making the program: {matcher.grid.size}x{matcher.grid.size} pixels, {shots} supports",
        flush=True,
    )
    made = make_program(matcher, shots)
    print("comparing it with the network", flush=True)
    difference = check_program(made, matcher, shots)
    print(
        f"{PROGRAM}: {len(made) / 1e6:.1f} MB for {', '.join(PLATFORMS)}; its log-odds differ from "
        f"the network's by {difference.largest:.1e} at most, of {difference.magnitude:.1f}, on "
        f"{difference.images} drawn images"
    )
    return made, describe(made, matcher, shots, difference)
