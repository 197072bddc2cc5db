"""The page itself: its parts, and what happens when a visitor does something."""

import contextlib
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from apanet_jax.demo import given as of
from apanet_jax.demo.given import Given, Support
from apanet_jax.demo.shown import cards, thumbnails
from apanet_jax.inference.matchers import Matcher
from apanet_jax.reports import overlays
from apanet_jax.runtime.errors import UserError

_FORGET_AFTER = 3600
_SWEEP_EVERY = 300
_PAINT = f"rgb{overlays.GIVEN}"
_OPACITY = 0.6

THEME = gr.themes.Default(
    primary_hue="pink",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = """
.gradio-container { max-width: 1120px !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; }
#supports .wrap, #queries .wrap { font-size: 1em; }
.notice { padding: .5em .8em; border-radius: 8px; background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); }
.notice.problem { border-color: #c0392b; background: #c0392b22; }
#chosen .grid-container { grid-template-columns: repeat(5, minmax(0, 1fr)); }
#to-paint, #strip, #to-do, #results, #to-paint > *, #strip > *, #to-do > *, #results > * {
  padding: 0 !important; }
.strip { display: flex; flex-wrap: wrap; gap: 6px; }
.strip img { height: 72px; border-radius: 6px; }
.card { border-top: 1px solid var(--border-color-primary); padding: .6em 0; }
.card h3 { margin: .2em 0; overflow-wrap: anywhere; }
.card p { margin: .2em 0 .5em; }
.card .found { color: #1e8449; }
.card .missed { color: #b9770e; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px;
  max-width: 900px; }
.three figure { margin: 0; }
.three img { width: 100%; max-height: 420px; object-fit: contain; object-position: left top;
  border-radius: 6px; }
.three figcaption { font-size: .85em; opacity: .8; }
.words { max-width: 75ch; margin: .4em 0 .8em; }
@media (max-width: 600px) {
  .three { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .three figure:first-child { grid-column: 1 / -1; }
}
"""


def build(matcher: Matcher, samples: dict[str, Given]) -> gr.Blocks:
    """Returns the page.

    Args:
      matcher: what looks.
      samples: what a click on a thing's name fills in.
    """
    with gr.Blocks(
        title="apanet_jax", analytics_enabled=False, delete_cache=(_SWEEP_EVERY, _FORGET_AFTER)
    ) as page:
        state = gr.State(Given(), time_to_live=_FORGET_AFTER)
        gr.Markdown(
            "# Find a thing in pictures\nShow it in one to five pictures, by painting over it; "
            "then see where it is in others. The network was never taught what it is."
        )
        with gr.Row(elem_id="samples"):
            buttons = {
                thing: gr.Button(f"Sample: {thing}", size="sm", min_width=90) for thing in samples
            }
            clear = gr.Button("Start over", size="sm", min_width=90)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                gr.Markdown(f"### 1. Show the thing: 1 to {of.MOST_SUPPORTS} pictures")
                supports = gr.File(
                    file_count="multiple", height=150, show_label=False, elem_id="supports"
                )
                to_paint = gr.HTML(elem_id="to-paint", padding=False)
                editor = gr.ImageEditor(
                    visible=False,
                    show_label=False,
                    buttons=[],
                    type="numpy",
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(
                        colors=[(_PAINT, _OPACITY)],
                        default_color=(_PAINT, _OPACITY),
                        color_mode="fixed",
                    ),
                    elem_id="editor",
                )
                chosen = gr.Gallery(
                    visible=False,
                    show_label=False,
                    columns=of.MOST_SUPPORTS,
                    height=130,
                    object_fit="cover",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="chosen",
                )
                with gr.Row(visible=False) as changes:
                    wipe = gr.Button("Wipe the paint off", size="sm", min_width=120)
                    remove = gr.Button("Remove the picture", size="sm", min_width=120)
            with gr.Column(scale=2, min_width=320):
                gr.Markdown(f"### 2. Pictures to look through: up to {of.MOST_QUERIES}")
                queries = gr.File(
                    file_count="multiple", height=150, show_label=False, elem_id="queries"
                )
                strip = gr.HTML(elem_id="strip", padding=False)
                gr.Markdown("### 3. Find it")
                to_do = gr.HTML(elem_id="to-do", padding=False)
                find = gr.Button("Find it", variant="primary", elem_id="find")
        results = gr.HTML(elem_id="results", padding=False)

        shown = [state, supports, to_paint, editor, chosen, changes, queries, strip, to_do]

        def update(change: Callable[..., Given], *, repaint: bool = True) -> Callable[..., list]:
            def changed(state: Given, editor: Any, *arguments: Any) -> list:
                kept = of.with_painted(state, editor)
                try:
                    return _shown(change(kept, *arguments), repaint=repaint)
                except UserError as error:
                    return _shown(kept, problem=str(error), repaint=False)

            return changed

        def choose(state: Given, editor: Any, event: gr.SelectData) -> list:
            return update(lambda kept: kept._replace(current=event.index))(state, editor)

        def look(state: Given, editor: Any) -> Iterator[list]:
            kept = of.with_painted(state, editor)
            try:
                _check_complete(kept)
                for html in cards(kept, matcher):
                    yield [*_shown(kept, repaint=False), html]
            except UserError as error:
                yield [*_shown(kept, problem=str(error), repaint=False), ""]

        inputs = [state, editor]
        # Gradio's sign of progress stays on the editor now and then, and takes the paint off it.
        quietly = {"show_progress": "hidden"}
        supports.upload(
            update(lambda kept, files: _taken(of.with_supports, kept, files)),
            [*inputs, supports],
            shown,
            api_name="supports",
            **quietly,
        )
        queries.upload(
            update(lambda kept, files: _taken(of.with_queries, kept, files), repaint=False),
            [*inputs, queries],
            shown,
            api_name="queries",
            **quietly,
        )
        chosen.select(choose, inputs, shown, api_visibility="private", **quietly)
        wipe.click(update(of.wiped), inputs, shown, api_name="wipe", **quietly)
        remove.click(update(of.without_current), inputs, shown, api_name="remove", **quietly)
        clear.click(
            lambda: [*_shown(Given()), ""],
            None,
            [*shown, results],
            api_name="start_over",
            **quietly,
        )
        for thing, button in buttons.items():
            button.click(
                lambda thing=thing: [*_shown(samples[thing]), ""],
                None,
                [*shown, results],
                api_name=f"sample_{thing}",
                **quietly,
            )
        find.click(look, inputs, [*shown, results], api_name="find", show_progress_on=results)
        page.load(lambda: _shown(Given()), None, shown, api_visibility="private", **quietly)
    return page


def _shown(given: Given, *, problem: str = "", repaint: bool = True) -> list:
    """Returns what the parts of the page show: those in `shown`, in this order."""
    any_support = bool(given.supports)
    first, second = _next_steps(given)
    editor = gr.skip()
    if repaint:
        given = of.shown_anew(given)
        editor = gr.update(value=_editor_value(given), visible=any_support)
    return [
        given,
        None,
        _notice(first),
        editor,
        gr.update(value=_gallery(given), visible=len(given.supports) > 1),
        gr.update(visible=any_support),
        None,
        thumbnails(given),
        _notice(problem or second, problem=bool(problem)),
    ]


def _next_steps(given: Given) -> tuple[str, str]:
    """Returns what to do next to show the thing, and then to find it."""
    if not given.supports:
        return (
            "Choose pictures that show the thing, or take a sample above.",
            "First show the thing: step 1.",
        )
    missing = of.unpainted(given)
    if not missing:
        first = "The thing is painted. To change that, paint on, or wipe the paint off."
    elif given.current in missing:
        first = "Paint over the whole thing with the mouse or a finger."
        if len(given.supports) > 1:
            first += " Then click the next small picture below."
    else:
        first = f"Then click picture {missing[0] + 1} below, and paint over the thing there too."
    if not given.queries:
        return first, "Choose pictures to look through: step 2."
    if missing:
        return first, "When the thing is painted in each picture of step 1, press the button."
    return first, "All is there: press the button."


def _check_complete(given: Given) -> None:
    if not given.supports:
        raise UserError("No picture shows the thing yet: choose one in step 1.")
    if missing := of.unpainted(given):
        raise UserError(
            f"Nothing is painted on picture {missing[0] + 1} of step 1: paint over the thing, or "
            "remove the picture."
        )
    if not given.queries:
        raise UserError("There is no picture to look through yet: choose some in step 2.")


def _taken(take: Callable, given: Given, files: list[str] | None) -> Given:
    """Returns what is given with uploaded files, which are deleted whatever comes of them."""
    paths = [Path(str(file)) for file in files or []]
    try:
        return take(given, paths)
    finally:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink()


def _editor_value(given: Given) -> dict[str, Any] | None:
    if not given.supports:
        return None
    # As part of the picture: layers that are handed to the editor come out at another place.
    return {"background": _tinted(given.supports[given.current]), "layers": [], "composite": None}


def _tinted(support: Support) -> np.ndarray:
    if support.mask is None:
        return support.image
    return overlays.overlay(support.image, support.mask, overlays.GIVEN)


def _gallery(given: Given) -> list[tuple[np.ndarray, str]]:
    return [
        (_tinted(support), f"{number}" if support.mask is not None else f"{number}: paint")
        for number, support in enumerate(given.supports, 1)
    ]


def _notice(text: str, *, problem: bool = False) -> str:
    role = 'role="alert" ' if problem else ""
    return f'<div {role}class="notice{" problem" * problem}">{escape(text)}</div>'
