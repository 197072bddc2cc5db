"""The editor in which supports are painted: what it shows, and what it sends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apanet_jax.demo.uploads import read_layers
from apanet_jax.reports import overlays
from apanet_jax.runtime.errors import UserError

_PAINT = f"rgb{overlays.TRUTH}"
_OPACITY = 0.6


def editor() -> gr.ImageEditor:
    """Returns the editor, in which a mouse or a finger paints."""
    return gr.ImageEditor(
        visible=False,
        show_label=False,
        buttons=[],
        type="numpy",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(
            colors=[(_PAINT, _OPACITY)], default_color=(_PAINT, _OPACITY), color_mode="fixed"
        ),
        elem_id="editor",
    )


@contextlib.contextmanager
def bounded_editors() -> Iterator[None]:
    """Has `editor_layers` read what editors send while the block runs.

    Gradio would decode whatever is sent, however much, and keep its files. It makes new editors of
    the class for each visitor, so it is the class that changes.
    """
    before = gr.ImageEditor.preprocess
    gr.ImageEditor.preprocess = lambda self, payload: editor_layers(payload, self.blob_storage)
    try:
        yield
    finally:
        gr.ImageEditor.preprocess = before


def editor_layers(sent: Any, blobs: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the layers that the editor sent, RGBA; the rest is not needed and not decoded.

    Args:
      sent: what Gradio hands over: layers in files, which are removed, or the id of blobs.
      blobs: by id, what browsers sent before.

    Raises:
      gr.Error: it cannot be used.
    """
    if sent is not None and sent.id is not None:
        sent = blobs.pop(sent.id, None)
    if sent is None:
        return None
    try:
        layers = read_layers([getattr(x, "path", x) for x in sent.layers or () if x is not None])
    except UserError as error:
        raise gr.Error(str(error)) from error
    finally:
        for image in (*(sent.layers or ()), sent.composite):
            remove_upload(getattr(image, "path", None))
    return {"background": None, "layers": layers, "composite": None}


def remove_upload(path: str | None) -> None:
    """Removes a file that was sent, if it lies where Gradio puts such files."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    if path and folder and Path(path).resolve().is_relative_to(Path(folder).resolve()):
        Path(path).unlink(missing_ok=True)
