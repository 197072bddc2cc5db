"""The page itself: its layout, and what happens at each of a visitor's actions."""

import contextlib
import os
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from apanet_jax.demo.cards import cards, thumbnails
from apanet_jax.demo.style import CSS, THEME
from apanet_jax.demo.visit import (
    MOST_QUERIES,
    MOST_SUPPORTS,
    Support,
    Visit,
    read_layers,
    shown_again,
    unpainted,
    wiped,
    with_painted,
    with_queries,
    with_supports,
    without_current,
)
from apanet_jax.inference.matcher import Matcher
from apanet_jax.reports import overlays
from apanet_jax.runtime.errors import UserError

__all__ = ["CSS", "THEME", "build"]

_FORGET_AFTER = 3600
"""Seconds without an action after which a visit is forgotten."""
_UPLOADS_KEPT, _SWEEP_EVERY = 600, 60
"""Seconds for which Gradio keeps the files it serves, and between looking for older ones."""
_PAINT = f"rgb{overlays.GIVEN}"
_OPACITY = 0.6

Change = Callable[..., Visit]


class Components(NamedTuple):
    """The parts of the page that change, and those that a visitor acts on."""

    visit: gr.State
    supports: gr.File
    to_paint: gr.HTML
    editor: gr.ImageEditor
    chosen: gr.Gallery
    changes: gr.Row
    queries: gr.File
    strip: gr.HTML
    to_do: gr.HTML
    results: gr.HTML
    wipe: gr.Button
    remove: gr.Button
    find: gr.Button
    clear: gr.Button
    samples: dict[str, gr.Button]

    @property
    def shown(self) -> list[gr.blocks.Block]:
        """What `_shown` gives values for, in its order."""
        return list(self[:9])


def build(matcher: Matcher, samples: dict[str, Visit]) -> gr.Blocks:
    """Returns the page.

    Args:
      matcher: which segments the queries.
      samples: what a click on a class's name enters.
    """
    with gr.Blocks(
        title="apanet_jax", analytics_enabled=False, delete_cache=(_SWEEP_EVERY, _UPLOADS_KEPT)
    ) as page:
        components = _layout(samples)
        _connect(components, matcher, samples)
        page.load(
            lambda: _shown(Visit()),
            None,
            components.shown,
            api_visibility="private",
            show_progress="hidden",
        )
    return page


def _layout(samples: dict[str, Visit]) -> Components:
    """Places the components."""
    visit = gr.State(Visit(), time_to_live=_FORGET_AFTER)
    gr.Markdown(
        "# Find a class of objects in images\nShow it in one to five images, by painting over it; "
        "then see where it is in others. The network was not trained on it."
    )
    with gr.Row(elem_id="samples"):
        buttons = {name: gr.Button(f"Sample: {name}", size="sm", min_width=90) for name in samples}
        clear = gr.Button("Start over", size="sm", min_width=90)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            gr.Markdown(f"### 1. Show the class: 1 to {MOST_SUPPORTS} images")
            supports = gr.File(
                file_count="multiple", height=150, show_label=False, elem_id="supports"
            )
            to_paint = gr.HTML(elem_id="to-paint", padding=False)
            editor = _editor()
            chosen = gr.Gallery(
                visible=False,
                show_label=False,
                columns=MOST_SUPPORTS,
                height=130,
                object_fit="cover",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="chosen",
            )
            with gr.Row(visible=False) as changes:
                wipe = gr.Button("Wipe the paint off", size="sm", min_width=120)
                remove = gr.Button("Remove the image", size="sm", min_width=120)
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(f"### 2. Images to segment: up to {MOST_QUERIES}")
            queries = gr.File(
                file_count="multiple", height=150, show_label=False, elem_id="queries"
            )
            strip = gr.HTML(elem_id="strip", padding=False)
            gr.Markdown("### 3. Find it")
            to_do = gr.HTML(elem_id="to-do", padding=False)
            find = gr.Button("Find it", variant="primary", elem_id="find")
    results = gr.HTML(elem_id="results", padding=False)
    return Components(
        visit, supports, to_paint, editor, chosen, changes, queries, strip, to_do,
        results, wipe, remove, find, clear, buttons,
    )  # fmt: skip


def _editor() -> gr.ImageEditor:
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
    """Has `_editor_layers` read what editors send while the block runs.

    Gradio would decode whatever is sent, however much, and keep its files. It makes new editors of
    the class for each visitor, so it is the class that changes.
    """
    before = gr.ImageEditor.preprocess
    gr.ImageEditor.preprocess = lambda self, payload: _editor_layers(payload, self.blob_storage)
    try:
        yield
    finally:
        gr.ImageEditor.preprocess = before


def _editor_layers(sent: Any, blobs: dict[str, Any]) -> dict[str, Any] | None:
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
            _remove_upload(getattr(image, "path", None))
    return {"background": None, "layers": layers, "composite": None}


def _remove_upload(path: str | None) -> None:
    """Removes a file that was sent, if it lies where Gradio puts such files."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    if path and folder and Path(path).resolve().is_relative_to(Path(folder).resolve()):
        Path(path).unlink(missing_ok=True)


def _connect(on: Components, matcher: Matcher, samples: dict[str, Visit]) -> None:
    """Says what happens at each of a visitor's actions."""
    inputs, shown = [on.visit, on.editor], on.shown
    # Gradio's sign of progress stays on the editor now and then, and takes the paint off it.
    quietly = {"show_progress": "hidden"}
    on.supports.upload(
        _update(lambda kept, files: _with_files(with_supports, kept, files)),
        [*inputs, on.supports],
        shown,
        api_name="supports",
        **quietly,
    )
    on.queries.upload(
        _update(lambda kept, files: _with_files(with_queries, kept, files), repaint=False),
        [*inputs, on.queries],
        shown,
        api_name="queries",
        **quietly,
    )
    on.chosen.select(_choose, inputs, shown, api_visibility="private", **quietly)
    on.wipe.click(_update(wiped), inputs, shown, api_name="wipe", **quietly)
    on.remove.click(_update(without_current), inputs, shown, api_name="remove", **quietly)
    fillings = {"start_over": (on.clear, Visit())}
    fillings |= {f"sample_{name}": (on.samples[name], samples[name]) for name in samples}
    for name, (button, filling) in fillings.items():
        button.click(
            lambda filling=filling: [*_shown(filling), ""],
            None,
            [*shown, on.results],
            api_name=name,
            **quietly,
        )
    on.find.click(
        _segmenting(matcher),
        inputs,
        [*shown, on.results],
        api_name="find",
        show_progress_on=on.results,
    )


def _update(change: Change, *, repaint: bool = True) -> Callable[..., list]:
    """Returns an event's function: it changes the visit, or says why it cannot."""

    def changed(visit: Visit, editor: Any, *arguments: Any) -> list:
        kept = with_painted(visit, editor)
        try:
            return _shown(change(kept, *arguments), repaint=repaint)
        except UserError as error:
            return _shown(kept, problem=str(error), repaint=False)

    return changed


def _choose(visit: Visit, editor: Any, event: gr.SelectData) -> list:
    return _update(lambda kept: kept._replace(current=event.index))(visit, editor)


def _segmenting(matcher: Matcher) -> Callable[..., Iterator[list]]:
    def segment(visit: Visit, editor: Any) -> Iterator[list]:
        kept = with_painted(visit, editor)
        try:
            _check_complete(kept)
            for html in cards(kept, matcher):
                yield [*_shown(kept, repaint=False), html]
        except UserError as error:
            yield [*_shown(kept, problem=str(error), repaint=False), ""]

    return segment


def _shown(visit: Visit, *, problem: str = "", repaint: bool = True) -> list:
    """Returns what the page shows: values of `Components.shown`."""
    any_support = bool(visit.supports)
    first, second = _next_steps(visit)
    editor = gr.skip()
    if repaint:
        visit = shown_again(visit)
        editor = gr.update(value=_editor_value(visit), visible=any_support)
    return [
        visit,
        None,
        _notice(first),
        editor,
        gr.update(value=_gallery(visit), visible=len(visit.supports) > 1),
        gr.update(visible=any_support),
        None,
        thumbnails(visit),
        _notice(problem or second, problem=bool(problem)),
    ]


def _next_steps(visit: Visit) -> tuple[str, str]:
    """Returns what to do next to show the class, and then to find it."""
    if not visit.supports:
        return (
            "Choose images that show the class, or take a sample above.",
            "First show the class: step 1.",
        )
    missing = unpainted(visit)
    if not missing:
        first = "The objects are painted. To change that, paint on, or wipe the paint off."
    elif visit.current in missing:
        first = "Paint over the whole object with the mouse or a finger."
        if len(visit.supports) > 1:
            first += " Then click the next small image below."
    else:
        first = f"Then click image {missing[0] + 1} below, and paint over the object there too."
    if not visit.queries:
        return first, "Choose images to segment: step 2."
    if missing:
        return first, "When the object is painted in each image of step 1, press the button."
    return first, "Everything is there: press the button."


def _check_complete(visit: Visit) -> None:
    if not visit.supports:
        raise UserError("No image shows the class yet: choose one in step 1.")
    if missing := unpainted(visit):
        raise UserError(
            f"Nothing is painted on image {missing[0] + 1} of step 1: paint over the object, or "
            "remove the image."
        )
    if not visit.queries:
        raise UserError("There is no image to segment yet: choose some in step 2.")


def _with_files(add: Change, visit: Visit, files: list[str] | None) -> Visit:
    """Returns the visit with uploaded files, which are deleted whatever comes of them."""
    paths = [Path(str(file)) for file in files or []]
    try:
        return add(visit, paths)
    finally:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink()


def _editor_value(visit: Visit) -> dict[str, Any] | None:
    if not visit.supports:
        return None
    # As part of the image: layers that are handed to the editor come out at another place.
    return {"background": _tinted(visit.supports[visit.current]), "layers": [], "composite": None}


def _tinted(support: Support) -> np.ndarray:
    if support.mask is None:
        return support.image
    return overlays.overlay(support.image, support.mask, overlays.GIVEN)


def _gallery(visit: Visit) -> list[tuple[np.ndarray, str]]:
    return [
        (_tinted(support), f"{number}" if support.mask is not None else f"{number}: paint")
        for number, support in enumerate(visit.supports, 1)
    ]


def _notice(text: str, *, problem: bool = False) -> str:
    role = 'role="alert" ' if problem else ""
    return f'<div {role}class="notice{" problem" * problem}">{escape(text)}</div>'
