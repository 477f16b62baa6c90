r"""One form for what LaTeX writes in several.

`{a \over b}` and `\dfrac ab` are `\frac{a}{b}`, `sqrt(2)` and `\sqrt2` are `\sqrt{2}`, a system of equations is the
list of its lines.
"""

from __future__ import annotations

import re

_PLAIN_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s*(?=\()")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(?:\[\s*\{?\s*([0-9]{1,2}|[a-z])\s*\}?\s*\])?\s*([0-9A-Za-z])(?![A-Za-z]*\{)")
_ROOT_INDEX = re.compile(r"\\sqrt\s*\[\s*\{\s*([0-9]{1,2}|[a-z])\s*\}\s*\]")
_SYSTEM = re.compile(r"\\begin\s*\{(cases|aligned|array|gathered)\}(?:\s*\{[lcr|]*\})?(.*?)\\end\s*\{\1\}", re.DOTALL)
_FRAC = re.compile(r"\\(?:[dtc]|nice|s)frac(?![A-Za-z])")
_BINOM = re.compile(r"\\[dt]binom(?![A-Za-z])")
_SHORT_FRAC = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])")


def one_form(text: str) -> str:
    """With fractions, binomial coefficients and roots in one form."""
    text = in_front(in_front(text, "over", "frac"), "choose", "binom")
    text = _SHORT_FRAC.sub(r"\\frac{\1}{\2}", _FRAC.sub(r"\\frac", _BINOM.sub(r"\\binom", text)))
    return _SHORT_ROOT.sub(_braced_root, _ROOT_INDEX.sub(r"\\sqrt[\1]", _plain_roots(text)))


def in_front(text: str, infix: str, command: str) -> str:
    r"""`\frac{a}{b}` of `{a \over b}`; the operator splits the group in which it stands."""
    mark = "\\" + infix
    while (place := re.search(re.escape(mark) + r"(?![A-Za-z])", text)) is not None:
        begin, end = _group_around(text, place.start())
        left, right = text[begin : place.start()].strip(), text[place.end() : end].strip()
        outer = (
            (begin - 1, end + 1) if begin and text[begin - 1] == "{" and text[end : end + 1] == "}" else (begin, end)
        )
        text = f"{text[: outer[0]]}\\{command}{{{left}}}{{{right}}}{text[outer[1] :]}"
    return text


def _group_around(text: str, place: int) -> tuple[int, int]:
    """Where the contents of the innermost braces around a place begin and end."""
    begin, depth = place, 0
    while begin > 0 and (depth or text[begin - 1] != "{"):
        begin -= 1
        depth += {"}": 1, "{": -1}.get(text[begin], 0)
    end, depth = place, 0
    while end < len(text) and (depth or text[end] != "}"):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return begin, end


def _plain_roots(text: str) -> str:
    r"""`\sqrt{...}` of `sqrt(...)`."""
    while (place := _PLAIN_ROOT.search(text)) is not None:
        end, depth = place.end(), 0
        while end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                break
        if depth:
            return text
        text = f"{text[: place.start()]}\\sqrt{{{text[place.end() + 1 : end - 1]}}}{text[end:]}"
    return text


def _braced_root(root: re.Match[str]) -> str:
    index = f"[{root[1]}]" if root[1] else ""
    return rf"\sqrt{index}{{{root[2]}}}"


def as_equations(text: str) -> str:
    r"""The equations of a system (`cases`, `aligned`), with commas between them; piecewise definitions as they are."""
    match = _SYSTEM.fullmatch(text)
    if match is None:
        return text
    lines = [line.replace("&", "").strip().rstrip(",;. ") for line in match[2].split(r"\\")]
    lines = [line for line in lines if line]
    return ", ".join(lines) if lines and all("=" in line for line in lines) else text
