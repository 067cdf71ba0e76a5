"""The live console: faders, meters and what the operator may ask of the sound."""

from __future__ import annotations

from alm_plugin.errors import ParameterError
from alm_plugin.web.messages import App, Command, Owner


def console(owner: Owner) -> App:
    """Build the console of whoever owns the sound.

    Parameters
    ----------
    owner : Owner
        ``describe()`` holds ``title``, ``sample_rate``, ``block_size``, ``model``, ``strips`` (a list of ``name``,
        ``role``, ``group``) and ``ranges`` (least and most of ``trim_db``, ``lock_db`` and ``strength``).
        ``state()`` holds ``time_s``, ``strips`` (a list of ``input_db``, ``output_db``, ``gain_db``, ``trim_db``,
        ``lock_db`` or None, ``mute``, ``solo``, ``why``, and if it is known under a lock too, ``predicted_db``),
        ``mix`` (``peak_db`` left and right, ``loudness_lufs``), ``strength``, ``freeze``, ``panic``, ``bypass``,
        ``xruns``, ``late_frames``, ``frames`` and ``faults`` (a list of ``text`` and ``count``).

    Raises
    ------
    ParameterError
        For a range that is missing or is none.
    """
    ranges = owner.describe().get("ranges", {})

    def number(name: str, **kind: bool) -> Command:
        try:
            low, high = ranges[name]
            return Command(range=(low, high), **kind)
        except (KeyError, TypeError, ValueError):
            got = ranges.get(name)
            raise ParameterError(f"ranges must hold two rising finite numbers for {name}, got {got!r}") from None

    return App(
        "console.html",
        owner,
        {
            "trim_db": number("trim_db", strip=True),
            "lock_db": number("lock_db", strip=True, nullable=True),
            "mute": Command(strip=True),
            "solo": Command(strip=True),
            "strength": number("strength"),
            "freeze": Command(),
            "panic": Command(),
            "bypass": Command(),
        },
    )
