"""Colours, letters and the arrangement of the page."""

import gradio as gr

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
#chosen .grid-container, #strip .grid-container {
  grid-template-columns: repeat(5, minmax(0, 1fr)); }
#chosen .grid-wrap, #strip .grid-wrap { min-height: 0 !important; }
#legend, #to-paint, #to-do, #results, #legend > *, #to-paint > *, #to-do > *, #results > * {
  padding: 0 !important; }
.legend { display: inline-flex; flex-wrap: wrap; gap: .2em 1em; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em;
  border-radius: 3px; border: 1px solid var(--border-color-primary); }
.card { border-top: 1px solid var(--border-color-primary); padding: .6em 0; }
.card h3 { margin: .2em 0; overflow-wrap: anywhere; }
.card p { margin: .2em 0 .5em; }
.card .found { color: #1e8449; }
.card .missed { color: #b9770e; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px;
  max-width: 720px; }
.figures figure { margin: 0; }
.figures img { width: 100%; max-height: 420px; object-fit: contain; object-position: left top;
  border-radius: 6px; }
.figures figcaption { font-size: .85em; opacity: .8; overflow-wrap: anywhere; }
.words { max-width: 75ch; margin: .4em 0 .8em; }
"""
