"""What every search can be told beside what it looks for."""

from __future__ import annotations

import gradio as gr

from services.demo.words import Words


def options(words: Words, max_results: int, *, both: bool) -> tuple[gr.Radio, gr.Slider, gr.Checkbox]:
    """Which model ranks (``both``: or the two beside each other), how many results, and whether unlikely ones count."""
    choices = [(words.dual, "dual"), (words.cross, "cross"), *([(words.both, "both")] if both else [])]
    with gr.Row(elem_classes="options"):
        model_type = gr.Radio(choices, value="dual", label=words.model, min_width=260)
        k = gr.Slider(1, max_results, value=min(6, max_results), step=1, label=words.results, min_width=200, buttons=[])
        only_likely = gr.Checkbox(False, label=words.only_likely, min_width=160)
    return model_type, k, only_likely
