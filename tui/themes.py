"""The appliance's own theme, beside Textual's."""

from __future__ import annotations

from textual.theme import Theme

# White and yellow on black; nothing that says something is dimmed.
HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#ffff00",
    warning="#ffaf00",
    error="#ff8787",
    success="#5fff5f",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    boost="#1c1c1c",
    dark=True,
    text_alpha=1.0,
    variables={
        "block-cursor-background": "#ffff00",
        "block-cursor-foreground": "#000000",
        "block-cursor-text-style": "bold",
        "footer-background": "#000000",
        "footer-key-foreground": "#ffff00",
        "footer-description-foreground": "#ffffff",
        "border": "#ffffff",
        "border-blurred": "#ffffff",
        "input-selection-background": "#ffff00 40%",
        "text-muted": "#d7d7d7",
        "text-disabled": "#d7d7d7",
        "text-primary": "#ffff00",
        "text-secondary": "#00ffff",
        "text-accent": "#ffff00",
        "text-warning": "#ffaf00",
        "text-error": "#ff8787",
        "text-success": "#5fff5f",
    },
)
