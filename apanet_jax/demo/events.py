"""What happens on the page at each of a visitor's actions."""

import contextlib
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from apanet_jax.demo.cards import legend, tinted
from apanet_jax.demo.components import Components
from apanet_jax.demo.finding import found
from apanet_jax.demo.steps import check_complete, next_steps
from apanet_jax.demo.uploads import with_mask, with_queries, with_supports
from apanet_jax.demo.visit import (
    RUB_OUT,
    Support,
    Visit,
    classes_on,
    shown_again,
    wiped,
    with_class,
    with_corrected,
    with_painted,
    without_current,
)
from apanet_jax.inference.files.prediction_files import shrunk
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.runtime.errors import UserError

_THUMBNAIL_SIDE = 160
_RUB_OUT = "rub out"

Change = Callable[..., Visit]


def connect(on: Components, matcher: Matcher, samples: dict[str, Visit]) -> None:
    """Says what happens at each of a visitor's actions."""
    inputs, outputs = [on.visit, on.editor], on.shown
    # Gradio's sign of progress stays on the editor now and then, and takes the paint off it.
    quietly = {"show_progress": "hidden"}
    for component, event, change, name in (
        (on.supports, "upload", _of_files(with_supports), "supports"),
        (on.queries, "upload", _of_files(with_queries), "queries"),
        (on.mask, "upload", _of_files(lambda visit, paths: with_mask(visit, paths[0])), "mask"),
        (on.new_class, "submit", with_class, "new_class"),
        (on.classes, "input", _painting, "paint"),
    ):
        repaint = name != "queries"
        getattr(component, event)(
            _update(change, repaint=repaint),
            [*inputs, component],
            outputs,
            api_name=name,
            **quietly,
        )
    on.chosen.select(_choose, inputs, outputs, api_visibility="private", **quietly)
    on.searched.select(_correct, inputs, outputs, api_visibility="private", **quietly)
    on.wipe.click(_update(wiped), inputs, outputs, api_name="wipe", **quietly)
    on.remove.click(_update(without_current), inputs, outputs, api_name="remove", **quietly)
    fillings = {"start_over": (on.clear, Visit())}
    fillings |= {f"sample_{name}": (on.samples[name], samples[name]) for name in samples}
    for name, (button, filling) in fillings.items():
        button.click(
            lambda filling=filling: [*shown(filling), ""],
            None,
            [*outputs, on.results],
            api_name=name,
            **quietly,
        )
    on.find.click(
        _segmenting(matcher),
        inputs,
        [*outputs, on.results],
        api_name="find",
        show_progress_on=on.results,
    )


def shown(visit: Visit, *, problem: str = "", repaint: bool = True) -> list:
    """Returns what the page shows: values of `page.Components.shown`."""
    any_support = bool(visit.supports)
    first, second = next_steps(visit)
    editor = gr.skip()
    if repaint:
        visit = shown_again(visit)
        editor = gr.update(value=_editor_value(visit), visible=any_support)
    choices = [*((name, number) for number, name in enumerate(visit.classes)), (_RUB_OUT, RUB_OUT)]
    return [
        visit,
        None,
        gr.update(choices=choices, value=visit.painting),
        "",
        legend(visit.classes),
        _notice(first),
        editor,
        gr.update(value=_supports(visit), visible=len(visit.supports) > 1),
        gr.update(visible=any_support),
        None,
        gr.update(value=_queries(visit), visible=bool(visit.queries)),
        _notice(problem or second, problem=bool(problem)),
    ]


def _update(change: Change, *, repaint: bool = True) -> Callable[..., list]:
    """Returns an event's function: it changes the visit, or says why it cannot."""

    def changed(visit: Visit, editor: Any, *arguments: Any) -> list:
        kept = with_painted(visit, editor)
        try:
            return shown(change(kept, *arguments), repaint=repaint)
        except UserError as error:
            return shown(kept, problem=str(error), repaint=False)

    return changed


def _painting(visit: Visit, number: int) -> Visit:
    return visit._replace(painting=number)


def _choose(visit: Visit, editor: Any, event: gr.SelectData) -> list:
    return _update(lambda kept: kept._replace(current=event.index))(visit, editor)


def _correct(visit: Visit, editor: Any, event: gr.SelectData) -> list:
    return _update(lambda kept: with_corrected(kept, event.index))(visit, editor)


def _segmenting(matcher: Matcher) -> Callable[..., Iterator[list]]:
    def segment(visit: Visit, editor: Any) -> Iterator[list]:
        kept = with_painted(visit, editor)
        try:
            check_complete(kept)
            for number, (after, html) in enumerate(found(kept, matcher), 1):
                # The editor may lose its place while what is beside it changes.
                last = number == len(kept.queries)
                yield [*shown(after, repaint=last), html]
        except UserError as error:
            yield [*shown(kept, problem=str(error), repaint=False), ""]

    return segment


def _of_files(add: Change) -> Change:
    """Returns a change by uploaded files, which are deleted whatever comes of them."""

    def added(visit: Visit, files: list[str] | str | None) -> Visit:
        files = [files] if isinstance(files, str) else files
        paths = [Path(str(file)) for file in files or []]
        try:
            return add(visit, paths) if paths else visit
        finally:
            for path in paths:
                with contextlib.suppress(OSError):
                    path.unlink()

    return added


def _editor_value(visit: Visit) -> dict[str, Any] | None:
    support = visit.shown
    if support is None:
        return None
    # As part of the image: layers that are handed to the editor come out at another place.
    background = tinted(support.image, support.label)
    return {"background": background, "layers": [], "composite": None}


def _supports(visit: Visit) -> list[tuple[np.ndarray, str]]:
    return [
        (_small(support), f"{number}" if classes_on(support) else f"{number}: paint")
        for number, support in enumerate(visit.supports, 1)
    ]


def _queries(visit: Visit) -> list[tuple[np.ndarray, str]]:
    return [(_small(query), query.name) for query in visit.queries]


def _small(image: Support | Any) -> np.ndarray:
    label = None if image.label is None else shrunk(image.label, _THUMBNAIL_SIDE)
    return tinted(shrunk(image.image, _THUMBNAIL_SIDE), label)


def _notice(text: str, *, problem: bool = False) -> str:
    role = 'role="alert" ' if problem else ""
    return f'<div {role}class="notice{" problem" * problem}">{escape(text)}</div>'
