"""The generator `instruction_problems`: its own answers follow, its sets do not meet, nothing contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from reasoner.errors import ConfigError, DataError
from reasoner_rewards.text_checks import follows, read_text_checks
from reasoner_tasks.instruction_problems import CLASHING, SUBJECTS, instruction_problems


def test_every_answer_follows_its_instructions() -> None:
    problems = list(instruction_problems(900, 7, subjects="all"))
    assert len({problem["question"] for problem in problems}) == 900
    for problem in problems:
        read = read_text_checks("p", problem["instructions"])
        assert all(follows(problem["answer"], name, arguments) for name, arguments in read), problem
        kinds = {name for name, _ in read}
        assert len(kinds) == len(read) == problem["level"]
        assert not any(pair <= kinds for pair in CLASHING)


def test_most_answers_to_others_do_not() -> None:
    """An answer is no master key: a policy must read the instructions."""
    problems = list(instruction_problems(200, 7, levels=[1]))
    answer = problems[0]["answer"]
    read = [read_text_checks("p", problem["instructions"]) for problem in problems]
    followed = sum(all(follows(answer, name, arguments) for name, arguments in each) for each in read)
    assert 0 < followed < 100


def test_held_out_subjects_are_never_trained_on() -> None:
    def subjects(which: str) -> set[str]:
        asked = [problem["question"] for problem in instruction_problems(400, 3, subjects=which)]
        return {subject for subject, _ in SUBJECTS for question in asked if question.startswith(subject)}

    train, held_out = subjects("train"), subjects("held_out")
    assert not train & held_out
    assert (len(train), len(held_out)) == (24, 8)


def test_the_same_seed_gives_the_same_problems() -> None:
    assert [*instruction_problems(20, 1)] == [*instruction_problems(20, 1)] != [*instruction_problems(20, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [4]}, "options.levels .* got "),
        ({"levels": []}, "options.levels"),
        ({"levels": 1}, "options.levels"),
        ({"kinds": ["word"]}, "Did you mean 'words'"),
        ({"subjects": "test"}, "options.subjects"),
        ({"levels": [2], "kinds": ["words", "sentences"]}, "no 2 of words, sentences can be given together"),
    ],
)
def test_options_that_name_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(instruction_problems(3, 1, **options))


def test_more_problems_than_there_are_are_refused() -> None:
    with pytest.raises(DataError, match=r"only \d+ different problems"):
        list(instruction_problems(10_000, 1, levels=[1], kinds=["lower_case"]))
