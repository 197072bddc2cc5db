"""The components of the page."""

from typing import NamedTuple

import gradio as gr


class Components(NamedTuple):
    """The parts of the page that change, and those that a visitor acts on."""

    visit: gr.State
    supports: gr.File
    classes: gr.Radio
    new_class: gr.Textbox
    legend: gr.HTML
    to_paint: gr.HTML
    editor: gr.ImageEditor
    chosen: gr.Gallery
    changes: gr.Row
    queries: gr.File
    searched: gr.Gallery
    to_do: gr.HTML
    results: gr.HTML
    wipe: gr.Button
    remove: gr.Button
    mask: gr.UploadButton
    find: gr.Button
    clear: gr.Button
    samples: dict[str, gr.Button]

    @property
    def shown(self) -> list[gr.blocks.Block]:
        """What `events.shown` gives values for, in its order."""
        return list(self[:12])
