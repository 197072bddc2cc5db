"""A folder of results that holds those of the last job, and whatever its owner put there.

`LIST` names each file that a job wrote with the SHA-256 of its content, in the form that
`sha256sum --check` reads. By it the next job knows what it may remove, and what was changed since.
"""

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from apanet_jax.data.images.image_files import relative_parts
from apanet_jax.inference.files.queries import file_name
from apanet_jax.runtime.atomic_files import cannot_write, write_bytes
from apanet_jax.runtime.errors import UserError

LIST, RESULTS, CONTACT_SHEET = "files.sha256", "results.json", "contact.png"


def earlier_files(folder: Path) -> dict[str, str | None]:
    """Returns the files that the last job wrote and that are there, with their SHA-256.

    Of a job of an earlier version, which left no list, they are those that its results name; what
    they held (None) is not known.
    """
    if (folder / LIST).is_file():
        lines = (folder / LIST).read_bytes().decode("utf-8", "surrogateescape").splitlines()
        pairs = [line.split("  ", 1) for line in lines if "  " in line]
        named: dict[str, str | None] = {name: digest for digest, name in pairs}
        named[LIST] = None
    else:
        named = dict.fromkeys(_of_results(folder / RESULTS))
    plain = {"/".join(relative_parts(name)): name for name in named}
    return {x: named[name] for x, name in plain.items() if x and (folder / x).is_file()}


def check_replaced(folder: Path, names: Iterable[str], given: Collection[Path]) -> None:
    """Checks that a job replaces and removes nothing but an earlier job's results.

    Args:
      folder: of the results.
      names: of the files that the job will write.
      given: the job's supports and queries, resolved.

    Raises:
      UserError: it would replace or remove a given file, one that was changed since it was written,
        or one that no job wrote.
    """
    earlier = earlier_files(folder)
    for name, digest in earlier.items():
        path = folder / name
        if path.resolve() in given:
            raise UserError(
                f"{path} is one of the given files and a result of an earlier run, which this one "
                "replaces: take another --output"
            )
        if digest is not None and _digest(path.read_bytes()) != digest:
            raise UserError(
                f"{path} was changed since predict wrote it: move it elsewhere to keep it, or take "
                "another --output"
            )
    for name in names:
        if name not in earlier and (folder / name).exists():
            raise UserError(
                f"{folder / name} would be replaced, and is no result of an earlier run: move it, "
                "or take another --output"
            )


class WrittenFiles:
    """Writes the files of a job, each whole, and lists them."""

    def __init__(self, folder: Path):
        """Makes the folder, and removes what an earlier job left in it.

        Raises:
          UserError: the folder cannot be written to.
        """
        self._folder = folder
        with cannot_write(folder):
            folder.mkdir(parents=True, exist_ok=True)
            earlier = earlier_files(folder)
            # The results go first, so that they never describe other files than those beside them;
            # the list goes last.
            for name in sorted(earlier, key=lambda name: (name == LIST, name != RESULTS)):
                (folder / name).unlink()
            for parent in sorted({p for x in earlier for p in Path(x).parents}, reverse=True):
                if parent.name:
                    with contextlib.suppress(OSError):  # It holds something else.
                        (folder / parent).rmdir()

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, `name` with slashes from the folder on.

        Raises:
          UserError: it cannot be written.
        """
        path = self._folder / name
        line = f"{_digest(content)}  {name}\n".encode("utf-8", "surrogateescape")
        with cannot_write(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Before the file, so that none is left that is not listed.
            with (self._folder / LIST).open("ab") as file:
                file.write(line)
        write_bytes(path, content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _of_results(path: Path) -> list[str]:
    """Returns the files of a job that left results and no list."""
    try:
        results = json.loads(path.read_bytes())
        found = [x for row in results["queries"] for x in row.get("classes", ())]
        masks = [(x["mask"].removesuffix("_mask.png"), x["class"]) for x in found]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
    names = [f"{mask}_{kind}.png" for mask, _ in masks for kind in ("mask", "probability")]
    for mask, class_name in masks:
        query = mask.removesuffix(f"_{file_name(class_name)}") if class_name else mask
        names += [f"{query}_labels.png", f"{query}_overlay.png"]
    return [*names, CONTACT_SHEET, path.name]
