r"""One spelling for answers that differ only in typography, before they are compared.

Unicode compatibility normalisation (NFKC) is not used on purpose: it turns `10²` into `102`.
"""

from __future__ import annotations

import re
import unicodedata

from reasoner_rewards.latex import as_equations, one_form

_CHARACTERS = str.maketrans(
    {
        "−": "-", "﹣": "-", "－": "-", "＋": "+", "％": "%", "／": "/", "．": ".", "，": ",",
        "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "°": r"^{\circ}", "⁄": "/",
        "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8",
        "\u00a0": r"\,", "\u2009": r"\,", "\u202f": r"\,", "\u200b": "", "\u2060": "", "\ufeff": "",
        "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ",
        "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "…": r"\dots ", "⋯": r"\dots ", "θ": r"\theta ",
        "（": "(", "）": ")", "［": "[", "］": "]", "【": "[", "】": "]", "｛": r"\{", "｝": r"\}", "、": ",",
        "；": ";", "：": ":", "∶": ":", "＝": "=", "＜": "<", "＞": ">",
        "｜": "|", "。": ".", "＊": "*", "＾": "^", "\u3000": " ",
    }
)  # fmt: skip
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:[.,][0-9]+)*")
_SPACED_NUMBER = re.compile(r"-?[1-9][0-9]{0,2}(?: [0-9]{3})+(?:\.[0-9]+)?")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9]+|[a-zA-Z]))")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_DOLLAR = re.compile(r"(?<!\\)\$")
_WRAPPER = re.compile(r"\\(?:boldsymbol|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|bf)\s*\{")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_DIGIT_SPACE = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|,\\,|\\,|\\!|\\;|\\:)\s*(?=[0-9]{3}(?![0-9]))")
_SPACE = re.compile(r"(?<!\\)\\[,;:! ]|~|\s")
_GAP = re.compile(r"[\s,;]*\\q?quad(?![A-Za-z])[\s,;]*")
"""what stands before and after it are two things"""
_DROPPED = re.compile(
    r"\\(?:left|right|middle|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|tiny|small|normalsize|"
    r"large|Large|LARGE|huge|Huge|bf|rm|it|sf|mathstrut|strut|nonumber|newline|hfill)(?![A-Za-z])\.?"
    r"|\\(?:color|hspace|vspace|phantom|tag|label)\*?\s*\{[^{}]*\}"
)
_SHOWN = re.compile(r"\\(?:boxed|fbox|textcolor\s*\{[^{}]*\}|colorbox\s*\{[^{}]*\}|underline|ensuremath)(?![A-Za-z])")
"""commands that change how their argument looks"""
_RELATION = re.compile(r"\\(?:leq|geq|neq|leqslant|geqslant|leqq|geqq)(?![A-Za-z])")
_PLAIN_RELATION = re.compile(r"(?<![<>=!:])(?:<=|>=|!=)(?![<>=])")
_PLAIN_POWER = re.compile(r"(?<=[\w)}\]])\s*\*\*\s*(\{[^{}]*\}|\([^()]*\)|-?[0-9]+(?:\.[0-9]+)?|[A-Za-z])")
_DEGREE = re.compile(r"\^?\s*\\degree(?![A-Za-z])|\^\s*\\circ(?![A-Za-z])")
_SETS = re.compile(r"\\([RZNQC])(?![A-Za-z])")
_DOTS = re.compile(r"\\(?:l|c|d)?dots[cbmio]?(?![A-Za-z])|\.{3}(?!\.)|\\ldots(?![A-Za-z])")
_APPROXIMATELY = re.compile(r"\\(?:simeq|doteq|approxeq|thickapprox)(?![A-Za-z])")
_MODULO = re.compile(
    r"\(\s*(?:\\text\s*\{\s*mod\s*\}|\\mod|\\bmod|mod)(?![A-Za-z])\s*([^()]{1,40})\)"
    r"|(?:\\pmod|\\bmod|\\mod|\\text\s*\{\s*mod\s*\}|(?<![A-Za-z\\])mod)(?![A-Za-z])\s*(?:\{([^{}]*)\}|([0-9]+|[A-Za-z]))"
)
_BOLD_MATH = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathrm|textbf|bf|text)\s*\{\s*(?=[^{}]*\\(?:frac|sqrt|pi))((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)
"""a formula in bold"""
_ROMAN_CONSTANT = re.compile(r"\\(?:mathrm|text|operatorname|mathbf|rm)\s*\{\s*([ei])\s*\}")
_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(?:(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|csc|ln|log|exp)(?=\s*[({^0-9]|\s*\\|\s+[A-Za-z](?![A-Za-z]))"
    r"|(sec|gcd|lcm)(?=\s*\())"
)
_LINE_GAP = re.compile(r"\\\\\s*\[[0-9.]+(?:ex|em|pt|cm|mm)\]")
_LINE_END = re.compile(r"(?:\s*\\\\)+\s*$")
_CJK = "\u4e00-\u9fff"
_EITHER = re.compile(r"\s*(?:或者?|和|与|及|以及)\s*")
_CJK_RUN = re.compile(rf"(?<=[0-9}}%])\s*([{_CJK}]+)")
_NEGATIVE_POWER = re.compile(r"\^\s*-\s*([0-9]+)")
_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
_GREEK = re.compile(r"(?<![A-Za-z\\])(alpha|beta|gamma|delta|theta|lambda|omega|phi)(?![A-Za-z])")
_PLAIN_LOG = re.compile(r"(?<![A-Za-z\\])log_?\{?(2|3|5|10|[ab])\}?\s*(?=\()")
_PLAIN_CALL = re.compile(r"(?<![A-Za-z\\])(cbrt|abs)\s*\(([^()]*)\)")
_LG = re.compile(r"\\lg(?![A-Za-z])")
_OPERATOR = re.compile(r"\\operatorname\*?\s*\{\s*([A-Za-z]+)\s*\}")
_REPEATING_DOTS = re.compile(r"(?<=[0-9.])\\dot\s*\{?([0-9])\}?(?:([0-9]*)\\dot\s*\{?([0-9])\}?)?")
_BASE_BRACKETS = re.compile(r"\(([0-9]+)\)\s*_|_\s*\{\s*\(([0-9]+)\)\s*\}")
_LABELS = re.compile(r"\\text\s*\{\s*((?:[A-H]|[IVX]+)(?:\s*(?:,|and|or|&)\s*(?:and\s+)?(?:[A-H]|[IVX]+))+)\s*\}")
_CIRCLED = re.compile("(?<=[①-⑳])(?=[①-⑳])")
_UNIT_POWER = re.compile(r"\\text\s*\{([A-Za-z/ ·]*[A-Za-z])\s*\^\s*\{?(-?[1-3])\}?\s*([A-Za-z/ ]*)\}")
_UNIT_PARTS = re.compile(r"\\text\s*\{([A-Za-z]+)\s*(?:\\[,;: ]|\\cdot|·|\s)\s*([A-Za-z]+)\s*\^\s*\{?(-?[1-3])\}?\s*\}")
_OHM = re.compile(r"(?<=[0-9])\s*(?:\\[,;: ]\s*)?\\Omega\s*$")
_CONTROL_SPACE = re.compile(r"(?<!\\)\\(?= )")
_BASE = re.compile(r"(?<=[0-9])\s*_\s*\{\s*([0-9]+)\s*\}")
_BASE_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_BASE_WORD = re.compile(rf"(?<=[0-9])\s*_\s*\{{\s*\\text\s*\{{\s*({'|'.join(_BASE_WORDS)})\s*\}}\s*\}}")
_DELIMITERS = (
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("`", "`"),
    ('"', '"'),
    ("“", "”"),
)
_MAX_WRAPPERS = 8
"""delimiters around each other"""
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z,]) | (?![0-9A-Za-z])|(?<=,) (?![0-9])")


def normalise(text: str) -> str:
    r"""The answer without delimiters, spacing commands and typographic variants; words stay inside `\text{}`."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text
    if _SPACED_NUMBER.fullmatch(text):
        return text.replace(" ", "")
    text = _CIRCLED.sub(", ", _CONTROL_SPACE.sub("", text))
    text = _EITHER.sub(", ", text) if _EITHER.search(text) else text
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit.group())), text.translate(_CHARACTERS))
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root.group(1) or root.group(2)}}}", text)
    if len(_DOLLAR.findall(text)) % 2 == 0:  # pairs delimit mathematics; a single one is money
        text = _DOLLAR.sub(" ", text)
    text = _strip_delimiters(_LINE_END.sub("", _LINE_GAP.sub(r"\\\\", text.strip())))
    text = as_equations(text) if "\\begin" in text else text
    text = _BOLD_MATH.sub(r"{\1}", text)
    text = _ROMAN_CONSTANT.sub(r" \1 ", _CJK_RUN.sub(r"\\text{\1}", text))
    text = _DIGIT_SPACE.sub(",", _WRAPPER.sub(r"\\text{", text))
    text = _UNIT_PARTS.sub(r"\\text{\1}\\text{\2}^{\3}", _OPERATOR.sub(r"\\text{\1}", text))
    text = _UNIT_POWER.sub(
        lambda unit: rf"\text{{{unit[1]}}}^{{{unit[2]}}}" + (rf"\text{{{unit[3]}}}" if unit[3] else ""), text
    )
    text = _TEXT.sub(_unwrap_if_not_words, _OHM.sub(r"\\text{ ohm}", _LABELS.sub(r" \1 ", text)))
    text = _DROPPED.sub(" ", _SHOWN.sub("", text))
    text = _PLAIN_CALL.sub(lambda call: rf"\sqrt[3]{{{call[2]}}}" if call[1] == "cbrt" else f"|{call[2]}|", text)
    text = one_form(_REPEATING_DOTS.sub(r"\\overline{\1\2\3}", text))
    text = _LG.sub(r"\\log_{10}", _PLAIN_LOG.sub(r"\\log_{\1}", _GREEK.sub(r"\\\1", text)))
    text = _PLAIN_POWER.sub(lambda power: "^{" + power[1].strip("{}()") + "}", text)
    text = _PLAIN_RELATION.sub(lambda match: {"<": r"\le ", ">": r"\ge ", "!": r"\ne "}[match.group()[0]], text)
    text = _RELATION.sub(lambda relation: relation.group()[:3], text).replace("\\varnothing", "\\emptyset")
    text = _FUNCTION.sub(lambda name: "\\" + name.group().strip(), text)
    text = _DOTS.sub(r"\\dots ", _SETS.sub(r"\\mathbb{\1}", _DEGREE.sub(r"^{\\circ}", text)))
    text = _MODULO.sub(lambda match: r"\pmod{" + next(filter(None, match.groups()), "").strip() + "}", text)
    text = _APPROXIMATELY.sub(r"\\approx", text).replace(r"\colon", ":").replace("{:}", ":")
    text = _BASE_BRACKETS.sub(lambda base: f"{base[1]}_" if base[1] else f"_{base[2]}", text)
    text = _PI.sub(r"\\pi", _BASE.sub(r"_\1", _BASE_WORD.sub(lambda base: f"_{_BASE_WORDS.index(base[1]) + 2}", text)))
    text = _NEGATIVE_POWER.sub(r"^{-\1}", text)
    text = " ".join(_SPACE.sub(" ", _GAP.sub(", ", text)).split())
    if text[:1] in "–—" and text[1:].strip()[:1].isdigit():
        text = "-" + text[1:]
    return _strip_delimiters(text)


def words(text: str) -> str:
    r"""A normalised answer as text: `\text{}` unwrapped, spaces kept only between letters and digits."""
    return _without_full_stop(_LOOSE_SPACE.sub("", " ".join(_TEXT.sub(r" \1 ", text).split())))


def _without_full_stop(text: str) -> str:
    """`5.` ends a sentence; `5...` does not say how it goes on, and the point of `.5` is no full stop."""
    return text[:-1] if text.endswith(".") and not text.endswith("..") else text


def _unwrap_if_not_words(match: re.Match[str]) -> str:
    content = match.group(1)
    is_words = any(map(str.isalpha, content)) and not any(map(str.isdigit, content))
    return match.group() if is_words else f" {content} "


def _strip_delimiters(text: str) -> str:
    for _ in range(_MAX_WRAPPERS):
        before = text
        if text.endswith("\\") and not text.endswith(r"\\"):  # a control space that lost its space
            text = text[:-1]
        if text[-2:] in (r"\,", r"\;", r"\:"):
            text = text[:-2].strip()
        text = _without_full_stop(text.strip().rstrip(",;:")).rstrip()
        if text.startswith("{") and _closing(text) == len(text) - 1:
            text = text[1:-1]
        for left, right in _DELIMITERS:
            inside = text[len(left) : len(text) - len(right)]
            if (
                len(text) > len(left) + len(right)
                and text.startswith(left)
                and text.endswith(right)
                and left not in inside
                and right not in inside
            ):
                text = inside
        if text == before:
            break
    return text


def _closing(text: str) -> int:
    """Where the brace at the beginning is closed; -1: nowhere."""
    depth = 0
    for index, char in enumerate(text):
        depth += {"{": 1, "}": -1}.get(char, 0) if index == 0 or text[index - 1] != "\\" else 0
        if depth == 0:
            return index
    return -1
