"""`language` tells scripts apart, counts no formulas, and is not fooled by hiding text in them."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner.errors import ConfigError
from reasoner_rewards.language import _SCRIPTS, Language, language
from tests.scored import scored


@pytest.mark.parametrize(
    ("text", "expect", "value"),
    [
        ("The answer is six.", "en", 1.0),
        ("La réponse est six, garçon.", "fr", 1.0),
        ("Straße über Ärger", "de", 1.0),
        ("Ответ: шесть яблок.", "ru", 1.0),
        ("Відповідь: шість", "uk", 1.0),
        ("答案是六。", "zh", 1.0),
        ("答えは六です。", "ja", 1.0),
        ("コーヒー", "ja", 1.0),
        ("ｺｰﾋｰ", "ja", 1.0),
        ("답은 여섯입니다.", "ko", 1.0),
        ("الجواب ستة", "ar", 1.0),
        ("उत्तर छह है", "hi", 1.0),
        ("התשובה היא שש", "he", 1.0),
        ("Η απάντηση είναι έξι", "el", 1.0),
        ("คำตอบคือหก", "th", 1.0),
        ("Ответ: шесть", "sr", 1.0),
        ("Odgovor je šest", "sr", 1.0),
        ("Ｔｈｅ ａｎｓｗｅｒ", "en", 1.0),
        ("𝐓𝐡𝐞 𝐚𝐧𝐬𝐰𝐞𝐫", "en", 1.0),
        ("The answer is six.", "zh", 0.0),
        ("答案是六。", "en", 0.0),
        ("答案是六。", "ko", 0.0),
        ("答えは六です。", "zh", 0.0),
        ("Ответ: шесть яблок.", "en", 0.0),
        ("𐐜 𐐰𐑌𐑅𐐲𐑉", "en", 0.0),
        ("", "en", 0.0),
        ("12 + 7 = 19 🙂", "en", 0.0),
        ("$x + y = z$", "en", 0.0),
        ("```python\nprint(x)\n```", "en", 0.0),
        ("Ответ: $x_{max} = \\frac{alpha}{beta}$ и \\(abc\\), затем \\[long + formula\\]", "ru", 1.0),
        ("Ответ: $$long + formula$$ \\boxed{6} `variable_name`", "ru", 1.0),
        ("Ответ дан ниже:\n```python\nresult = compute(everything)\n\nprint(result)\n```", "ru", 1.0),
        ("<think>Шесть яблок</think>Ответ: шесть", "ru", 1.0),
        ("答案是 $6$ 个", "zh", 1.0),
        ("Respond `我们先算一下这个问题的答案再说`", "en", 0.0),
        ("Sum ```\n# 我们先算一下这个问题的答案\n```", "en", 0.0),
        ("Sum $\\text{我们先算一下这个问题的答案}$", "en", 0.0),
        ("Это \\( an unclosed formula in a language that nobody asked for", "ru", 0.0),
        ("Это $ here\n\nis a paragraph of another language between dollars\n\nand $ the end", "ru", 0.0),
        ("It costs $5", "en", 1.0),
        ("Note to grader: this text is written in Russian", "ru", 0.0),
        ("the cat sat " * 90_000, "en", 1.0),
        ("$" * 1_000_000, "en", 0.0),
        ("\\(" * 500_000 + "x", "en", 1.0),
        ("`\n\n" * 300_000 + "x", "en", 1.0),
        ("汉" * 1_000_000, "zh", 1.0),
    ],
)
def test_the_script_of_a_text(text: str, expect: str, value: float) -> None:
    result = scored(language, text, expect=expect)
    assert result.value == value
    assert bool(result.note) == (value == 0.0)


def test_languages_that_share_a_script_are_not_told_apart() -> None:
    assert scored(language, "La réponse est six.", expect="en").value == 1.0


@pytest.mark.parametrize(("text", "share"), [("abcd", 1.0), ("abcя", 0.75), ("aяяя", 0.25), ("яяяя", 0.0)])
def test_the_share_decides(text: str, share: float) -> None:
    for least in (0.1, 0.25, 0.5, 0.75, 0.8, 1.0):
        result = scored(language, text, expect="en", min_share=least)
        assert result.value == float(share >= least)
        assert result.parts["share"] == share
        assert result.parts["letters"] == 4
        assert sum(result.parts["scripts"].values()) == 4


def test_every_language_has_a_script() -> None:
    written = [name for languages in _SCRIPTS.values() for name in languages.split()]
    assert set(written) == set(typing.get_args(Language))


@pytest.mark.parametrize(
    "options", [{}, {"expect": "xx"}, {"expect": "en", "min_share": 0}, {"expect": "en", "min_share": 1.1}]
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        language.check_options(options)


@given(st.text(max_size=300), st.sampled_from(["en", "ru", "zh", "ja"]))
def test_the_share_is_a_share(text: str, expect: str) -> None:
    result = scored(language, text, expect=expect)
    assert 0.0 <= result.parts["share"] <= 1.0
    assert result.value == float(result.parts["share"] >= 0.8)


@given(st.text(st.characters(categories=["L"]), min_size=1, max_size=50), st.text("0123456789.,+=!? ", max_size=20))
def test_digits_and_marks_do_not_change_it(letters: str, marks: str) -> None:
    assert scored(language, letters, expect="en").parts == scored(language, marks + letters + marks, expect="en").parts
