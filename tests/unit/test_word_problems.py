"""The generated word problems: different, reproducible, well written, and right by a second way of solving them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from reasoner.errors import ConfigError, DataError
from reasoner_tasks import register_generators
from reasoner_tasks.word_frames import FRAMES, LEVELS, THINGS, plural
from reasoner_tasks.word_problems import FRAME_SETS, frames_of, word_problems

PART_WORDS = {"half": 2, "a third": 3, "a quarter": 4, "a fifth": 5}


def rows(count: int, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in word_problems(count, seed, **options)]


def every_frame(per_level: int = 500) -> list[dict[str, Any]]:
    return [row for level in LEVELS for row in rows(per_level, 7, levels=[level], frames="all")]


# Solutions written a second time, as formulas of the numbers in the order in which they stand in the question.
SUM: Callable[..., Any] = lambda a, b: a + b  # noqa: E731
DIFFERENCE: Callable[..., Any] = lambda a, b: a - b  # noqa: E731
PRODUCT: Callable[..., Any] = lambda a, b: a * b  # noqa: E731
QUOTIENT: Callable[..., Any] = lambda a, b: Fraction(a, b)  # noqa: E731
SOLVERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        [
            *(
                "buys_more",
                "together",
                "gets_more",
                "two_containers",
                "two_times_of_day",
                "more_than_other",
                "had_at_first",
            ),
            *("get_on_train", "pages_two_weeks", "shop_two_days", "road_through_town"),
        ],
        SUM,
    ),
    **dict.fromkeys(
        [
            *(
                "gives_away",
                "loses",
                "sells",
                "how_many_more",
                "still_needs",
                "get_off_train",
                "rest_belongs",
                "pages_left",
            ),
            *("left_in_shop", "rope_cut_off"),
        ],
        DIFFERENCE,
    ),
    "before_the_gift": lambda gift, now: now - gift,
    **dict.fromkeys(
        [
            *("has_containers", "containers_hold", "every_day", "tickets_cost", "rows_of_chairs", "gives_each_friend"),
            *("each_child_has", "times_as_many", "pages_a_day", "packs", "rows_of_plants"),
        ],
        PRODUCT,
    ),
    **dict.fromkeys(
        [
            *(
                "shares_with_friends",
                "packed",
                "same_in_each",
                "come_in_packs",
                "equal_rows",
                "one_ticket",
                "days_to_read",
            ),
            *("per_day", "equal_teams", "rope_pieces", "rows_of_flowers"),
        ],
        QUOTIENT,
    ),
    "buys_and_gives": lambda has, buys, gives: has + buys - gives,
    "containers_less_some": lambda boxes, each, gives: boxes * each - gives,
    "change": lambda tickets, price, paid: paid - tickets * price,
    "share_the_sum": lambda one, other: Fraction(one + other, 2),
    "compare_and_add": lambda has, more: 2 * has + more,
    "two_stops": lambda on, more, off: on + more - off,
    "two_fruits_into_bags": lambda red, green, bag: Fraction(red + green, bag),
    "earns_and_spends": lambda wage, hours, spends: wage * hours - spends,
    "pages_after_days": lambda book, daily, days: book - daily * days,
    "one_and_several": lambda bag, notebooks, price: bag + notebooks * price,
    "age_later": lambda age, older, years: age + older + years,
    "free_seats": lambda rows, seats, taken: rows * seats - taken,
    "money_left": lambda money, toys, price: money - toys * price,
    "eggs_into_cartons": lambda morning, evening, carton: Fraction(morning + evening, carton),
    "containers_more_less": lambda _, boxes, each, gets, gives: boxes * each + gets - gives,
    "tea_and_cakes": lambda _, tea, tea_price, cakes, cake_price: tea * tea_price + cakes * cake_price,
    "train_two_stops": lambda _, on, more, off, again: on + more - off + again,
    "saves_gets_buys": lambda weekly, weeks, gift, _, helmet: weekly * weeks + gift - helmet,
    "empty_chairs": lambda _, tables, each, more, children: tables * each + more - children,
    "walks_further": lambda one, other, _, days: (one - other) * days,
    "eggs_kept_and_packed": lambda _, hens, each, kept, carton: Fraction(hens * each - kept, carton),
    "twice_as_many_pages": lambda book, _, monday: book - 3 * monday,
    "zoo": lambda adults, children, _, adult, child: adults * adult + children * child,
    "rolls": lambda _, trays, each, morning, afternoon: trays * each - morning - afternoon,
    "classes_into_groups": lambda _, classes, each, ill, groups: Fraction(classes * each - ill, groups),
    "packs_and_friends": lambda packs, each, _, gives, friends: packs * each - gives * friends,
    "steady_speed": lambda km, hours, new: Fraction(km * new, hours),
    "gives_a_part": lambda has, part: has - Fraction(has, part),
    "discount": lambda price, percent: price * (1 - Fraction(percent, 100)),
    "not_by_bus": lambda pupils, percent: pupils * (1 - Fraction(percent, 100)),
    "price_of_several": lambda paid, notebooks, new: Fraction(paid * new, notebooks),
    "tap": lambda liters, minutes, tank: Fraction(tank * minutes, liters),
    "recipe": lambda people, flour, new: Fraction(flour * new, people),
    "for_every": lambda blue, red, reds: Fraction(reds * blue, red),
    "price_rises": lambda price, percent: price * (1 + Fraction(percent, 100)),
    "some_of_every": lambda things, every, new: Fraction(things * new, every),
    "cycles_and_walks": lambda hours, speed, walks, walking: hours * speed + walks * walking,
    "tank": lambda liters, part, filled: liters - Fraction(liters, part) + filled,
    "wrong_answers": lambda questions, percent: questions * (1 - Fraction(percent, 100)),
    "printer": lambda pages, minutes, new: Fraction(pages * new, minutes),
}


def numbers_of(question: str) -> list[int]:
    """The numbers of a question in their order, parts in words too."""
    result = re.findall(r"\d+|\bhalf\b|\ba (?:third|quarter|fifth)\b", question)
    return [PART_WORDS[text] if text in PART_WORDS else int(text) for text in result]


def test_it_is_registered() -> None:
    assert register_generators()["word_problems"] is word_problems


def test_a_second_way_of_solving_gives_the_same_answer() -> None:
    problems = every_frame()
    assert {row["frame"] for row in problems} == SOLVERS.keys() == {frame.name for frame in FRAMES}
    for row in problems:
        numbers = numbers_of(row["question"])
        assert SOLVERS[row["frame"]](*numbers) == int(row["answer"]), row
        assert min(numbers) >= 2
        assert int(row["answer"]) >= 1


def test_every_calculation_of_a_solution_is_right_and_the_last_one_is_the_answer() -> None:
    for row in every_frame():
        calculations = re.findall(r"(\d+(?: [-+*/] \d+)+) = (\d+)", row["solution"])
        assert len(calculations) == {1: 1, 2: 1, 3: 2, 4: 3}.get(row["level"], len(calculations))
        assert all(eval(left) == int(right) for left, right in calculations), row
        assert row["solution"].endswith(f"The answer is \\boxed{{{row['answer']}}}.")
        assert calculations[-1][1] == row["answer"]


def test_level_four_has_a_number_that_its_solution_does_not_use() -> None:
    for frame in frames_of(4, "all"):
        assert "{x}" in frame.question
        assert not any("x" in step.expression.split() for step in frame.steps)


def test_texts_are_sentences() -> None:
    nouns = {thing.name for thing in THINGS} | {"page", "dollar", "box", "bag", "pack", "day", "liter", "seat", "row"}
    plurals = "|".join(plural(noun) for noun in nouns)
    singulars = "|".join(nouns)
    for row in every_frame():
        for text in (row["question"], row["solution"]):
            assert not re.search(rf"\b1 (more )?({plurals})\b", text), text
            assert not re.search(rf"\b([02-9]|\d\d+) (more )?({singulars})\b", text), text
            assert not re.search(r"[{}]|  | [.,?]", text.replace("\\boxed{", "").replace("}.", ".")), text
            assert all(sentence[0].isupper() for sentence in re.split(r"(?<=[.?]) (?!\d+ (?:of|more))", text)), text
        assert row["question"].endswith("?")


def test_at_least_sixty_frames_of_which_every_level_and_operation_keeps_some_for_evaluation() -> None:
    assert len(FRAMES) >= 60
    assert len({frame.name for frame in FRAMES}) == len({frame.question for frame in FRAMES}) == len(FRAMES)
    for level in LEVELS:
        held, trained = frames_of(level, "held_out"), frames_of(level, "train")
        assert len(held) >= 3
        assert len(trained) >= 3 * len(held) - len(held)
        assert not {frame.name for frame in held} & {frame.name for frame in trained}
    for level in (1, 2):
        for kept in ("train", "held_out"):
            assert {frame.steps[0].expression.split()[1] for frame in frames_of(level, kept)} == set("+-*/")


def test_held_out_frames_and_trained_ones_share_no_problem() -> None:
    trained, held = rows(1000, 1), rows(1000, 1, frames="held_out")
    assert {row["frame"] for row in trained}.isdisjoint(row["frame"] for row in held)
    assert {row["question"] for row in trained}.isdisjoint(row["question"] for row in held)


def test_the_same_seed_gives_the_same_problems_and_another_seed_others() -> None:
    assert rows(50, 1) == rows(50, 1)
    assert rows(50, 1) == rows(100, 1)[:50]
    first, second = ({row["question"] for row in rows(200, seed)} for seed in (1, 2))
    assert len(first & second) < 4


def test_all_are_different_and_levels_take_turns() -> None:
    problems = rows(5000, 3)
    assert len({row["question"] for row in problems}) == 5000
    assert [row["level"] for row in problems[:10]] == [*LEVELS, *LEVELS]
    assert {row["level"] for row in rows(20, levels=[4, 2])} == {2, 4}
    assert {row["frame"] for row in problems} == {frame.name for frame in FRAMES if not frame.held_out}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, r"levels of word_problems must be a list of some of \[1, 2, 3, 4, 5\], such as .*; got \[\]"),
        ({"levels": [1, 6]}, r"there is no level 6, the nearest is 5\. The levels are 1 .* to 5 .*; got \[1, 6\]"),
        ({"levels": [0]}, r"there is no level 0, the nearest is 1\."),
        ({"levels": [-7, 2]}, r"there is no level -7, the nearest is 1\."),
        ({"levels": ["1"]}, r"'1' is not a whole number; got \['1'\]"),
        ({"levels": [1.5]}, r"1\.5 is not a whole number"),
        ({"levels": [True]}, r"True is not a whole number"),
        ({"levels": [[1]]}, r"\[1\] is not a whole number"),
        ({"levels": 1}, r"such as levels = \[1, 2\]; got 1"),
        ({"levels": "1"}, r"such as levels = \[1, 2\]; got '1'"),
        ({"frames": "heldout"}, "must be one of train, held_out, all, got 'heldout'. Did you mean 'held_out'?"),
        ({"frames": "eval"}, r"frames of word_problems must be one of train, held_out, all, got 'eval'\.$"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows(1, **options)


def test_more_problems_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only = [frame for frame in FRAMES if frame.name == "tickets_cost"]  # 4 x 8 questions
    monkeypatch.setattr("reasoner_tasks.word_problems.FRAMES", only)
    assert len(rows(32, levels=[1])) == 32
    with pytest.raises(DataError, match="has only 32 different problems of these levels: lower the limit"):
        rows(33, levels=[1])


def test_sets_of_frames() -> None:
    assert FRAME_SETS == ("train", "held_out", "all")
    assert len(frames_of(1, "train")) + len(frames_of(1, "held_out")) == len(frames_of(1, "all"))
