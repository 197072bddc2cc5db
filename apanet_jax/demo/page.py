"""The page's layout: its components, and where they stand."""

import gradio as gr

from apanet_jax.demo import events
from apanet_jax.demo.components import Components
from apanet_jax.demo.editor import bounded_editors, editor
from apanet_jax.demo.style import CSS, THEME
from apanet_jax.demo.visit import LONGEST_NAME, MOST_QUERIES, MOST_SUPPORTS, Visit
from apanet_jax.inference.matching.matcher import Matcher

__all__ = ["CSS", "THEME", "bounded_editors", "build"]

_FORGET_AFTER = 3600
"""Seconds without an action after which a visit is forgotten."""
_UPLOADS_KEPT, _SWEEP_EVERY = 600, 60
"""Seconds for which Gradio keeps the files it serves, and between looking for older ones."""
_COLUMNS = 5


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
        events.connect(components, matcher, samples)
        page.load(
            lambda: events.shown(Visit()),
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
        "# Find objects in images\nShow what you are looking for in a few images, by their masks "
        "or by painting over it; then see where it is in others. The network was not trained on it."
    )
    with gr.Row(elem_id="samples"):
        buttons = {name: gr.Button(f"Sample: {name}", size="sm", min_width=90) for name in samples}
        clear = gr.Button("Start over", size="sm", min_width=90)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            gr.Markdown(
                f"### 1. Show the classes: 1 to {MOST_SUPPORTS} images\nMasks may come along: "
                "`a.jpg` with `a.json` (LabelMe), `a.txt` (YOLO) or `a_mask.png`, or one COCO JSON."
            )
            supports = _files("supports")
            with gr.Row(elem_id="classes"):
                classes = gr.Radio(label="Paint", elem_id="class", min_width=160, scale=3)
                new_class = gr.Textbox(
                    label="Another class",
                    placeholder="its name",
                    submit_btn="Add",
                    max_length=LONGEST_NAME,
                    max_lines=1,
                    elem_id="new-class",
                    min_width=140,
                    scale=2,
                )
            legend = gr.HTML(elem_id="legend", padding=False)
            to_paint = gr.HTML(elem_id="to-paint", padding=False)
            painted = editor()
            chosen = _gallery("chosen")
            with gr.Row(visible=False) as changes:
                wipe = gr.Button("Wipe the paint off", size="sm", min_width=100)
                mask = gr.UploadButton("Its mask from a file", size="sm", min_width=100)
                remove = gr.Button("Remove the image", size="sm", min_width=100)
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(f"### 2. Images to segment: up to {MOST_QUERIES}")
            queries = _files("queries")
            gr.Markdown("### 3. Find it")
            to_do = gr.HTML(elem_id="to-do", padding=False)
            find = gr.Button("Find it", variant="primary", elem_id="find")
            gr.Markdown(
                "### 4. Correct it\nClick an image: it comes to step 1 with its mask, to paint on "
                "or rub out. Then find again."
            )
            searched = _gallery("strip")
    results = gr.HTML(elem_id="results", padding=False)
    return Components(
        visit, supports, classes, new_class, legend, to_paint, painted, chosen, changes, queries,
        searched, to_do, results, wipe, remove, mask, find, clear, buttons,
    )  # fmt: skip


def _files(name: str) -> gr.File:
    return gr.File(file_count="multiple", height=150, show_label=False, elem_id=name)


def _gallery(name: str) -> gr.Gallery:
    return gr.Gallery(
        visible=False,
        show_label=False,
        columns=_COLUMNS,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id=name,
    )
