"""The colours and fonts of the page: Gradio's own components in our colours."""

from pathlib import Path

import gradio as gr

_FOLDER = Path(__file__).parent
FAVICON = _FOLDER / "favicon.png"
_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Helvetica", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

# The colour for the light page, and the one for the dark page.
_COLOURS = {
    "body_background_fill": ("#f6f5f2", "#101314"),
    "background_fill_primary": ("#ffffff", "#191d1f"),
    "background_fill_secondary": ("#f6f5f2", "#14181a"),
    "body_text_color": ("#1d2321", "#e8ecea"),
    "body_text_color_subdued": ("#5d6764", "#9aa5a1"),
    "border_color_primary": ("#dfdcd5", "#2d3436"),
    "border_color_accent": ("#0f766e", "#2dd4bf"),
    "color_accent_soft": ("#d9efec", "#15302d"),
    "block_background_fill": ("#ffffff", "#191d1f"),
    "block_label_text_color": ("#5d6764", "#9aa5a1"),
    "block_title_text_color": ("#3a4441", "#c3ccc9"),
    "input_background_fill": ("#ffffff", "#14181a"),
    "input_border_color": ("#cbc7be", "#3a4245"),
    "button_primary_background_fill": ("#0f766e", "#2dd4bf"),
    "button_primary_background_fill_hover": ("#0b5e58", "#5eead4"),
    "button_primary_text_color": ("#ffffff", "#06211e"),
    "button_secondary_background_fill": ("#ffffff", "#20262a"),
    "button_secondary_background_fill_hover": ("#efede7", "#2a3135"),
    "button_secondary_border_color": ("#cbc7be", "#3a4245"),
    "button_secondary_text_color": ("#1d2321", "#e8ecea"),
    "slider_color": ("#0f766e", "#2dd4bf"),
    "loader_color": ("#0f766e", "#2dd4bf"),
}


def build_theme() -> gr.themes.Base:
    """Our colours, light and dark. Every system has one of the fonts, so none is fetched."""
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        radius_size="lg",
        font=_SANS,
        font_mono=_MONO,
    )
    colours = {name: light for name, (light, _) in _COLOURS.items()}
    colours |= {f"{name}_dark": dark for name, (_, dark) in _COLOURS.items()}
    theme.set(
        **colours,
        color_accent="#0f766e",  # Gradio has no dark variant of it; page.css defines --accent
        block_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_background_fill="transparent",
        block_label_border_width="0px",
        button_border_width="1px",
        button_primary_shadow="none",
        input_shadow="none",
        input_shadow_focus="none",
    )
    return theme


def head_elements() -> str:
    """Our style sheet, and the script for pasting and dropping anywhere on the page.

    Gradio's own argument `css=` is of no use here: it rewrites the selectors, and those inside of
    `@media` then match nothing.
    """
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    return f"<style>{style}</style><script>{script}</script>"
