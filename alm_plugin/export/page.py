"""Pages that are complete without a network: style, script and data inside, and a policy that lets nothing else in."""

# ruff: noqa: RUF001  (minus signs and dashes are what a reader of a page expects)

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

STYLE = """
:root { color-scheme: light dark; --ink: #1c2227; --soft: #5b6770; --line: #d9dfe3; --page: #fff; --card: #f6f8f9;
  --good: #0b6b4f; --mark: #dff3ea; --bad: #a63a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ecef; --soft: #9aa7b0; --line: #364049; --page: #14181b;
  --card: #1c2226; --good: #6fd3ae; --mark: #17392d; --bad: #ffa270 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1240px; padding: 28px 24px 60px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 28px; margin: 0 0 4px } h2 { font-size: 20px; margin: 40px 0 4px }
p { margin: 4px 0 12px; max-width: 78ch; color: var(--soft) }
small { color: var(--soft); font-size: 12px; font-weight: 400 }
figure { margin: 0; padding: 14px 14px 8px; border: 1px solid var(--line); border-radius: 8px; background: var(--card) }
figcaption { font-weight: 600 } figcaption small { display: block; font-size: 13px }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; margin: 6px 0 2px }
"""
"""What every page begins with; colours by name, for light and dark."""


def number(value: float, digits: int) -> str:
    """Text of a value: a dash for none, "never" for infinity."""
    if math.isinf(value):
        return "never" if value > 0 else "silent"
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Text of a gain, with its sign."""
    if value == -math.inf:
        return "−∞"
    return ("+" if round(value, digits) > 0 else "") + number(value, digits)


def clock(seconds: float) -> str:
    """Minutes and seconds, as on a player.

    >>> clock(72.9)
    '1:12'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def plain(value: Any) -> Any:
    """Make of a value what JSON can hold: numbers that are not finite become None, paths text; arrays are left out."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items() if not isinstance(entry, np.ndarray)}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def data(name: str, value: Any) -> str:
    """Element `name` that holds a value as JSON, whatever its texts hold."""
    # Inside a script element only "<" could end or nest it.
    text = json.dumps(plain(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{html.escape(name)}">{text}</script>'


def page(title: str, body: str, style: str = "", script: str = "") -> bytes:
    """Build a whole page.

    Parameters
    ----------
    title : str
        Plain text.
    body : str
        HTML, already escaped, without style attributes: the policy stops them.
    style : str
        What is added to `STYLE`.
    script : str
        Run after the body. Only it and sounds inside the page are let through.

    Returns
    -------
    bytes
        UTF-8; what is no text in a file's name becomes question marks.
    """
    style = STYLE + style
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {_hash(style)}"
    if script:
        policy += f"; script-src {_hash(script)}; media-src data:"
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>{body}"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>"
    )
    return text.encode("utf-8", "replace")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
