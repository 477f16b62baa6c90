"""The sentence frames of the generator `word_problems`, one row each, and the words that go into them.

In a question `{a}` to `{d}`, `{k}`, `{m}`, `{p}` and `{x}` are numbers, all of them at least 2 (`{x}`: one that is not
needed). `{name}` and `{other}` are people; `{he}`, `{him}`, `{his}` stand for the first; `{things}` are in `{boxes}`.
A step is `result = calculation` with the sentence that says it. There `{sum}` is the calculation with its result, a
noun after it is singular when that is 1, and `{s}` is the ending of another noun's plural.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVELS = (1, 2, 3, 4, 5)
PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
Ranges = Mapping[str, Sequence[int]]
"""letter -> the numbers that it is drawn from"""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a story, with the pronouns."""

    name: str
    he: str
    him: str
    his: str


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that can be counted, and what it is kept in."""

    name: str
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SolutionStep:
    """One step of a solution: `target` is the value of `expression`, which is read from left to right."""

    target: str
    expression: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A story without its numbers and words."""

    name: str
    question: str
    steps: tuple[SolutionStep, ...]
    ranges: Mapping[int, Ranges]
    """level -> what the numbers are drawn from"""
    held_out: bool


def plural(noun: str) -> str:
    """Of the regular nouns below: box, boxes; shelf, shelves; berry, berries."""
    if noun.endswith("f"):
        return f"{noun[:-1]}ves"
    if noun.endswith(("x", "sh", "ch", "s")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


_WOMEN = (
    *("Ada", "Amira", "Anna", "Bella", "Chiara", "Dina", "Elena", "Fatima", "Grace", "Hana", "Ines", "Julia", "Kira"),
    *("Lucy", "Maya", "Nora", "Olga", "Priya", "Rosa", "Sara", "Tara", "Uma", "Vera", "Wendy", "Yuki", "Zoe"),
)
_MEN = (
    *("Adam", "Ali", "Ben", "Carlos", "David", "Emil", "Felix", "George", "Hugo", "Ivan", "Jack", "Kofi", "Leo"),
    *("Marco", "Noah", "Omar", "Paul", "Ravi", "Sam", "Tom", "Victor", "Will", "Yusuf", "Diego", "Kenji", "Peter"),
)
PEOPLE = (
    *(Person(name, "she", "her", "her") for name in _WOMEN),
    *(Person(name, "he", "him", "his") for name in _MEN),
)
_FRUIT, _SMALL, _PAPER = ("basket", "bag", "box"), ("jar", "bag", "box"), ("folder", "envelope", "box")
THINGS = (
    *(Thing(name, _FRUIT) for name in ("apple", "pear", "orange", "lemon", "plum", "mango", "egg", "cherry")),
    *(Thing(name, _SMALL) for name in ("marble", "button", "bead", "shell", "coin", "candy", "nut", "key")),
    *(Thing(name, _PAPER) for name in ("sticker", "card", "stamp", "photo", "poster", "ticket")),
    *(Thing(name, ("box", "drawer", "bag")) for name in ("pencil", "crayon", "brush", "toy", "ball", "candle")),
    *(Thing(name, ("shelf", "box", "crate")) for name in ("book", "cup", "bottle", "puzzle")),
)

_ONE_STEP: Mapping[str, Mapping[int, Ranges]] = {
    "+": {1: {"a": range(2, 13), "b": range(2, 13)}, 2: {"a": range(21, 480), "b": range(21, 480)}},
    "-": {1: {"a": range(4, 21), "b": range(2, 13)}, 2: {"a": range(60, 900), "b": range(21, 480)}},
    "*": {1: {"a": range(2, 6), "b": range(2, 10)}, 2: {"a": range(3, 10), "b": range(12, 61)}},
    "/": {1: {"a": range(4, 41), "b": range(2, 6)}, 2: {"a": range(36, 541), "b": range(3, 10)}},
}


def _one_step_frame(name: str, question: str, expression: str, sentence: str, *, held_out: bool = False) -> Frame:
    """A frame of levels 1 and 2."""
    ranges = _ONE_STEP[expression.split()[1]]
    return Frame(name, question, (SolutionStep("t", expression, sentence),), ranges, held_out)


def _multi_step_frame(
    level: int, name: str, question: str, *steps: tuple[str, str], held_out: bool = False, **numbers: Sequence[int]
) -> Frame:
    """A frame of one of the levels 3 to 5; steps as `("t = a + b", sentence)`."""
    split = [(*equation.split(" = "), sentence) for equation, sentence in steps]
    parsed = tuple(SolutionStep(target, expression, sentence) for target, expression, sentence in split)
    return Frame(name, question, parsed, {level: numbers}, held_out)


_ADD = (
    _one_step_frame(
        "buys_more",
        "{name} has {a} {things}. {He} buys {b} more. How many {things} does {name} have now?",
        "a + b",
        "{name} has {sum} {things} now.",
    ),
    _one_step_frame(
        "together",
        "{name} has {a} {things} and {other} has {b}. How many {things} do they have together?",
        "a + b",
        "Together they have {sum} {things}.",
    ),
    _one_step_frame(
        "gets_more",
        "{name} had {a} {things}. Then {other} gave {him} {b} more. How many {things} does {name} have now?",
        "a + b",
        "{name} has {sum} {things} now.",
    ),
    _one_step_frame(
        "two_containers",
        "There are {a} {things} in one {box} and {b} in another. How many {things} are there in all?",
        "a + b",
        "That makes {sum} {things}.",
    ),
    _one_step_frame(
        "two_times_of_day",
        "{name} counted {a} {things} in the morning and {b} in the afternoon. How many {things} did {he} count "
        "that day?",
        "a + b",
        "{name} counted {sum} {things}.",
    ),
    _one_step_frame(
        "more_than_other",
        "{other} has {a} {things}. {name} has {b} more {things} than {other}. How many {things} does {name} have?",
        "a + b",
        "{name} has {sum} {things}.",
    ),
    _one_step_frame(
        "had_at_first",
        "{name} gave {a} {things} to {other} and has {b} left. How many {things} did {name} have at first?",
        "a + b",
        "At first {name} had {sum} {things}.",
    ),
    _one_step_frame(
        "get_on_train",
        "There are {a} passengers on a train. At the next stop {b} get on and nobody gets off. How many "
        "passengers are on the train now?",
        "a + b",
        "The train has {sum} passenger{s} now.",
    ),
    _one_step_frame(
        "pages_two_weeks",
        "{name} read {a} pages last week and {b} pages this week. How many pages did {he} read in these two weeks?",
        "a + b",
        "{name} read {sum} page{s}.",
        held_out=True,
    ),
    _one_step_frame(
        "shop_two_days",
        "A shop sold {a} {things} on Monday and {b} on Tuesday. How many {things} did it sell on these two days?",
        "a + b",
        "The shop sold {sum} {things}.",
        held_out=True,
    ),
    _one_step_frame(
        "road_through_town",
        "It is {a} km from {name}'s house to the lake and {b} km from the lake on to the castle. How many km is "
        "it from {name}'s house to the castle when {he} goes by the lake?",
        "a + b",
        "The whole way is {sum} km.",
        held_out=True,
    ),
)
_TAKE_AWAY = (
    _one_step_frame(
        "gives_away",
        "{name} has {a} {things}. {He} gives {b} of them to {other}. How many {things} does {name} have left?",
        "a - b",
        "{name} has {sum} {things} left.",
    ),
    _one_step_frame(
        "loses",
        "{name} had {a} {things} and lost {b} of them. How many {things} does {he} still have?",
        "a - b",
        "{name} still has {sum} {things}.",
    ),
    _one_step_frame(
        "sells",
        "{name} has {a} {things} and sells {b} of them. How many {things} are left?",
        "a - b",
        "That leaves {sum} {things}.",
    ),
    _one_step_frame(
        "how_many_more",
        "{name} has {a} {things} and {other} has {b}. How many more {things} does {name} have than {other}?",
        "a - b",
        "{name} has {sum} {things} more.",
    ),
    _one_step_frame(
        "still_needs",
        "{name} wants to have {a} {things}. {He} has {b} already. How many more {things} does {he} need?",
        "a - b",
        "{name} needs {sum} more {things}.",
    ),
    _one_step_frame(
        "get_off_train",
        "There are {a} passengers on a train. At the next stop {b} get off and nobody gets on. How many "
        "passengers are still on the train?",
        "a - b",
        "The train still has {sum} passenger{s}.",
    ),
    _one_step_frame(
        "rest_belongs",
        "There are {a} {things} in a {box}. {b} of them belong to {name} and the others belong to {other}. How "
        "many {things} belong to {other}?",
        "a - b",
        "{other} has {sum} {things}.",
    ),
    _one_step_frame(
        "pages_left",
        "A book has {a} pages. {name} has read {b} of them. How many pages does {he} still have to read?",
        "a - b",
        "{name} still has to read {sum} page{s}.",
    ),
    _one_step_frame(
        "left_in_shop",
        "A shop had {a} {things} in the morning. During the day it sold {b} of them. How many {things} did it "
        "have in the evening?",
        "a - b",
        "In the evening the shop had {sum} {things}.",
        held_out=True,
    ),
    _one_step_frame(
        "before_the_gift",
        "{name} had some {things}. {other} gave {him} {b} more, and now {he} has {a}. How many {things} did "
        "{name} have at first?",
        "a - b",
        "At first {name} had {sum} {things}.",
        held_out=True,
    ),
    _one_step_frame(
        "rope_cut_off",
        "A rope is {a} meters long. {name} cuts {b} meters off. How many meters long is the rest of the rope?",
        "a - b",
        "The rest is {sum} meter{s} long.",
        held_out=True,
    ),
)
_GROUPS = (
    _one_step_frame(
        "has_containers",
        "{name} has {a} {boxes} with {b} {things} in each. How many {things} does {name} have?",
        "a * b",
        "{name} has {sum} {things}.",
    ),
    _one_step_frame(
        "containers_hold",
        "There are {a} {boxes} in a room. Each {box} holds {b} {things}. How many {things} are there in all?",
        "a * b",
        "That makes {sum} {things}.",
    ),
    _one_step_frame(
        "every_day",
        "{name} collects {b} {things} every day. How many {things} does {he} collect in {a} days?",
        "a * b",
        "{name} collects {sum} {things}.",
    ),
    _one_step_frame(
        "tickets_cost",
        "A ticket costs {b} dollars. How many dollars do {a} tickets cost?",
        "a * b",
        "The tickets cost {sum} dollar{s}.",
    ),
    _one_step_frame(
        "rows_of_chairs",
        "A hall has {a} rows with {b} chairs in each row. How many chairs are there in the hall?",
        "a * b",
        "The hall has {sum} chair{s}.",
    ),
    _one_step_frame(
        "gives_each_friend",
        "{name} gives {b} {things} to each of {his} {a} friends. How many {things} does {he} give away?",
        "a * b",
        "{name} gives away {sum} {things}.",
    ),
    _one_step_frame(
        "each_child_has",
        "There are {a} children, and each of them has {b} {things}. How many {things} do they have together?",
        "a * b",
        "Together they have {sum} {things}.",
    ),
    _one_step_frame(
        "times_as_many",
        "{other} has {b} {things}. {name} has {a} times as many. How many {things} does {name} have?",
        "a * b",
        "{name} has {sum} {things}.",
    ),
    _one_step_frame(
        "pages_a_day",
        "{name} reads {b} pages a day. How many pages does {he} read in {a} days?",
        "a * b",
        "{name} reads {sum} page{s}.",
        held_out=True,
    ),
    _one_step_frame(
        "packs",
        "There are {b} {things} in a pack. {name} buys {a} packs. How many {things} does {he} buy?",
        "a * b",
        "{name} buys {sum} {things}.",
        held_out=True,
    ),
    _one_step_frame(
        "rows_of_plants",
        "A gardener plants {a} rows of flowers with {b} flowers in each row. How many flowers does the gardener plant?",
        "a * b",
        "The gardener plants {sum} flower{s}.",
        held_out=True,
    ),
)
_SHARES = (
    _one_step_frame(
        "shares_with_friends",
        "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
        "a / b",
        "Each friend gets {sum} {things}.",
    ),
    _one_step_frame(
        "packed",
        "{name} packs {a} {things} into {boxes}, {b} into each. How many {boxes} does {he} fill?",
        "a / b",
        "{name} fills {sum} {boxes}.",
    ),
    _one_step_frame(
        "same_in_each",
        "{name} puts {a} {things} into {b} {boxes}, the same number into each. How many {things} are in each {box}?",
        "a / b",
        "Each {box} holds {sum} {things}.",
    ),
    _one_step_frame(
        "come_in_packs",
        "{name} needs {a} {things}. They are sold in packs of {b}. How many packs does {he} need?",
        "a / b",
        "{name} needs {sum} pack{s}.",
    ),
    _one_step_frame(
        "equal_rows",
        "There are {a} children in {b} equal rows. How many children are in each row?",
        "a / b",
        "Each row has {sum} of the children.",
    ),
    _one_step_frame(
        "one_ticket",
        "{name} pays {a} dollars for {b} tickets of the same price. How many dollars does one ticket cost?",
        "a / b",
        "One ticket costs {sum} dollar{s}.",
    ),
    _one_step_frame(
        "days_to_read",
        "A book has {a} pages. {name} reads {b} pages a day. How many days does {he} need for the book?",
        "a / b",
        "{name} needs {sum} day{s}.",
    ),
    _one_step_frame(
        "per_day",
        "{name} collected {a} {things} in {b} days, the same number every day. How many {things} did {he} collect "
        "per day?",
        "a / b",
        "{name} collected {sum} {things} per day.",
    ),
    _one_step_frame(
        "equal_teams",
        "A school divides {a} children into {b} teams of the same size. How many children are in each team?",
        "a / b",
        "Each team has {sum} of the children.",
        held_out=True,
    ),
    _one_step_frame(
        "rope_pieces",
        "A rope of {a} meters is cut into {b} pieces of the same length. How many meters long is each piece?",
        "a / b",
        "Each piece is {sum} meter{s} long.",
        held_out=True,
    ),
    _one_step_frame(
        "rows_of_flowers",
        "A gardener has {a} flowers and plants {b} in every row. How many rows does the gardener plant?",
        "a / b",
        "The gardener plants {sum} row{s}.",
        held_out=True,
    ),
)
_TWO_STEPS = (
    _multi_step_frame(
        3,
        "buys_and_gives",
        "{name} has {a} {things}. {He} buys {b} more and then gives {c} to {other}. How many {things} does {name} "
        "have left?",
        ("t = a + b", "After buying, {name} has {sum} {things}."),
        ("u = t - c", "Then {name} has {sum} {things} left."),
        a=range(5, 41),
        b=range(5, 41),
        c=range(3, 41),
    ),
    _multi_step_frame(
        3,
        "containers_less_some",
        "{name} has {a} {boxes} with {b} {things} in each. {He} gives {c} {things} away. How many {things} are left?",
        ("t = a * b", "At first there are {sum} {things}."),
        ("u = t - c", "That leaves {sum} {things}."),
        a=range(2, 10),
        b=range(3, 13),
        c=range(2, 41),
    ),
    _multi_step_frame(
        3,
        "change",
        "{name} buys {a} tickets at {b} dollars each and pays with {c} dollars. How many dollars does {he} get back?",
        ("t = a * b", "The tickets cost {sum} dollar{s}."),
        ("u = c - t", "{name} gets back {sum} dollar{s}."),
        a=range(2, 9),
        b=range(2, 13),
        c=(20, 50, 100),
    ),
    _multi_step_frame(
        3,
        "share_the_sum",
        "{name} finds {a} {things} and {other} finds {b}. They put them together and share them equally. How many "
        "{things} does each of them get?",
        ("t = a + b", "Together they find {sum} {things}."),
        ("u = t / 2", "Each of them gets {sum} {things}."),
        a=range(3, 40),
        b=range(3, 40),
    ),
    _multi_step_frame(
        3,
        "compare_and_add",
        "{name} has {a} {things}. {other} has {b} more {things} than {name}. How many {things} do they have together?",
        ("t = a + b", "{other} has {sum} {things}."),
        ("u = a + t", "Together they have {sum} {things}."),
        a=range(3, 40),
        b=range(2, 30),
    ),
    _multi_step_frame(
        3,
        "two_stops",
        "There are {a} passengers on a bus. At the first stop {b} get on, and at the second stop {c} get off. How "
        "many passengers are on the bus then?",
        ("t = a + b", "After the first stop the bus has {sum} passenger{s}."),
        ("u = t - c", "After the second stop it has {sum} passenger{s}."),
        a=range(8, 30),
        b=range(2, 20),
        c=range(2, 20),
    ),
    _multi_step_frame(
        3,
        "two_fruits_into_bags",
        "{name} has {a} red and {b} green apples. {He} packs all of them into bags of {c}. How many bags does "
        "{he} fill?",
        ("t = a + b", "{name} has {sum} apple{s}."),
        ("u = t / c", "{name} fills {sum} bag{s}."),
        a=range(4, 40),
        b=range(4, 40),
        c=range(2, 10),
    ),
    _multi_step_frame(
        3,
        "earns_and_spends",
        "{name} earns {a} dollars an hour and works for {b} hours. Then {he} spends {c} dollars. How many dollars "
        "are left?",
        ("t = a * b", "{name} earns {sum} dollar{s}."),
        ("u = t - c", "That leaves {sum} dollar{s}."),
        a=range(6, 21),
        b=range(2, 9),
        c=range(5, 60),
    ),
    _multi_step_frame(
        3,
        "pages_after_days",
        "A book has {a} pages. {name} reads {b} pages a day for {c} days. How many pages are left to read?",
        ("t = b * c", "{name} has read {sum} page{s}."),
        ("u = a - t", "That leaves {sum} page{s}."),
        a=range(60, 240),
        b=range(5, 26),
        c=range(2, 9),
    ),
    _multi_step_frame(
        3,
        "one_and_several",
        "{name} buys a bag for {a} dollars and {b} notebooks at {c} dollars each. How many dollars does {he} spend?",
        ("t = b * c", "The notebooks cost {sum} dollar{s}."),
        ("u = a + t", "In all {name} spends {sum} dollar{s}."),
        a=range(8, 40),
        b=range(2, 9),
        c=range(2, 8),
    ),
    _multi_step_frame(
        3,
        "age_later",
        "{name} is {a} years old. {other} is {b} years older than {name}. How old will {other} be in {c} years?",
        ("t = a + b", "{other} is {sum} years old now."),
        ("u = t + c", "Then {other} will be {sum} years old."),
        held_out=True,
        a=range(5, 40),
        b=range(2, 20),
        c=range(2, 15),
    ),
    _multi_step_frame(
        3,
        "free_seats",
        "A cinema has {a} rows of {b} seats. On Friday {c} of the seats are taken. How many seats are free?",
        ("t = a * b", "The cinema has {sum} seat{s}."),
        ("u = t - c", "That leaves {sum} seat{s}."),
        held_out=True,
        a=range(4, 13),
        b=range(5, 13),
        c=range(10, 100),
    ),
    _multi_step_frame(
        3,
        "money_left",
        "{name} goes to a market with {a} dollars and buys {b} toys at {c} dollars each. How many dollars does "
        "{he} have left?",
        ("t = b * c", "The toys cost {sum} dollar{s}."),
        ("u = a - t", "{name} has {sum} dollar{s} left."),
        held_out=True,
        a=range(30, 100),
        b=range(2, 8),
        c=range(3, 13),
    ),
    _multi_step_frame(
        3,
        "eggs_into_cartons",
        "A farmer finds {a} eggs in the morning and {b} in the evening. A carton holds {c} eggs. How many cartons "
        "can the farmer fill with all of these eggs?",
        ("t = a + b", "The farmer finds {sum} egg{s}."),
        ("u = t / c", "The farmer fills {sum} carton{s}."),
        held_out=True,
        a=range(10, 60),
        b=range(10, 60),
        c=(6, 10, 12),
    ),
)
_THREE_STEPS = (
    _multi_step_frame(
        4,
        "containers_more_less",
        "{name} is {x} years old and has {a} {boxes} with {b} {things} in each. {He} gets {c} more {things} and "
        "then gives {d} to {other}. How many {things} does {name} have left?",
        ("t = a * b", "In the {boxes} are {sum} {things}."),
        ("u = t + c", "With the new ones that makes {sum} {things}."),
        ("v = u - d", "{name} has {sum} {things} left."),
        a=range(2, 8),
        b=range(3, 12),
        c=range(3, 30),
        d=range(3, 40),
        x=range(7, 15),
    ),
    _multi_step_frame(
        4,
        "tea_and_cakes",
        "A cafe opens at {x} o'clock. It sells {a} cups of tea at {b} dollars each and {c} cakes at {d} dollars "
        "each. How many dollars does it take in?",
        ("t = a * b", "The tea brings {sum} dollar{s}."),
        ("u = c * d", "The cakes bring {sum} dollar{s}."),
        ("v = t + u", "In all the cafe takes in {sum} dollar{s}."),
        a=range(4, 20),
        b=range(2, 5),
        c=range(3, 15),
        d=range(3, 8),
        x=range(7, 11),
    ),
    _multi_step_frame(
        4,
        "train_two_stops",
        "A train with {x} carriages has {a} passengers. At the first stop {b} get on and {c} get off. At the "
        "second stop {d} get on. How many passengers are on the train then?",
        ("t = a + b", "With those who get on at the first stop there are {sum}."),
        ("u = t - c", "Without those who get off there are {sum}."),
        ("v = u + d", "After the second stop there are {sum}."),
        a=range(40, 200),
        b=range(5, 60),
        c=range(5, 60),
        d=range(5, 60),
        x=range(4, 13),
    ),
    _multi_step_frame(
        4,
        "saves_gets_buys",
        "{name} saves {a} dollars a week for {b} weeks and gets {c} dollars from {his} aunt, who is {x} years "
        "old. Then {he} buys a helmet for {d} dollars. How many dollars does {he} have left?",
        ("t = a * b", "{name} saves {sum} dollar{s}."),
        ("u = t + c", "With the gift that makes {sum} dollar{s}."),
        ("v = u - d", "{name} has {sum} dollar{s} left."),
        a=range(3, 16),
        b=range(3, 12),
        c=range(10, 50),
        d=range(15, 60),
        x=range(25, 60),
    ),
    _multi_step_frame(
        4,
        "empty_chairs",
        "A classroom with {x} windows has {a} tables with {b} chairs at each. {d} more chairs are brought, and "
        "then {c} children sit down. How many chairs stay empty?",
        ("t = a * b", "At the tables are {sum} chair{s}."),
        ("u = t + d", "With the others that makes {sum} chair{s}."),
        ("v = u - c", "That leaves {sum} chair{s}."),
        a=range(4, 10),
        b=range(2, 6),
        c=range(10, 40),
        d=range(2, 12),
        x=range(3, 9),
    ),
    _multi_step_frame(
        4,
        "walks_further",
        "{name} walks {a} km a day and {other} walks {c} km a day. On their way they see {x} bridges. How many km "
        "further than {other} does {name} walk in {b} days?",
        ("t = a * b", "{name} walks {sum} km."),
        ("u = c * b", "{other} walks {sum} km."),
        ("v = t - u", "{name} walks {sum} km further."),
        a=range(8, 26),
        b=range(3, 11),
        c=range(4, 20),
        x=range(3, 15),
    ),
    _multi_step_frame(
        4,
        "eggs_kept_and_packed",
        "A farmer has {x} cows and {a} hens. Every hen lays {b} eggs a week. The farmer keeps {c} of the eggs of "
        "a week and packs the others into cartons of {d}. How many cartons does the farmer fill?",
        ("t = a * b", "The hens lay {sum} egg{s}."),
        ("u = t - c", "The farmer packs {sum} egg{s}."),
        ("v = u / d", "The farmer fills {sum} carton{s}."),
        a=range(6, 30),
        b=range(3, 7),
        c=range(4, 25),
        d=(6, 10, 12),
        x=range(3, 20),
    ),
    _multi_step_frame(
        4,
        "twice_as_many_pages",
        "{name} bought a book of {b} pages for {x} dollars. On Monday {he} read {a} pages and on Tuesday twice as "
        "many. How many pages are left to read?",
        ("t = a * 2", "On Tuesday {name} read {sum} page{s}."),
        ("u = a + t", "On both days together {name} read {sum} page{s}."),
        ("v = b - u", "That leaves {sum} page{s}."),
        a=range(8, 40),
        b=range(90, 260),
        x=range(6, 25),
    ),
    _multi_step_frame(
        4,
        "zoo",
        "A group of {a} adults and {b} children goes to a zoo with {x} monkeys. A ticket costs {c} dollars for an "
        "adult and {d} dollars for a child. How many dollars do the tickets cost together?",
        ("t = a * c", "The adults pay {sum} dollar{s}."),
        ("u = b * d", "The children pay {sum} dollar{s}."),
        ("v = t + u", "In all they pay {sum} dollar{s}."),
        a=range(2, 9),
        b=range(3, 20),
        c=range(9, 21),
        d=range(3, 9),
        x=range(5, 30),
    ),
    _multi_step_frame(
        4,
        "rolls",
        "A bakery that is {x} years old bakes {a} trays with {b} rolls on each. It sells {c} rolls in the morning "
        "and {d} in the afternoon. How many rolls are left?",
        ("t = a * b", "The bakery bakes {sum} roll{s}."),
        ("u = t - c", "After the morning it has {sum} roll{s}."),
        ("v = u - d", "After the afternoon it has {sum} roll{s}."),
        held_out=True,
        a=range(4, 12),
        b=range(8, 25),
        c=range(10, 90),
        d=range(10, 90),
        x=range(5, 80),
    ),
    _multi_step_frame(
        4,
        "classes_into_groups",
        "A school with {x} teachers has {a} classes of {b} pupils. On the day of the trip {c} pupils are ill. The "
        "others go in {d} groups of the same size. How many pupils are in each group?",
        ("t = a * b", "The school has {sum} pupil{s}."),
        ("u = t - c", "On the trip go {sum} of them."),
        ("v = u / d", "In each group are {sum} of them."),
        held_out=True,
        a=range(3, 9),
        b=range(15, 29),
        c=range(3, 20),
        d=range(3, 10),
        x=range(8, 40),
    ),
    _multi_step_frame(
        4,
        "packs_and_friends",
        "{name} buys {a} packs of {b} stickers in {x} colors. {He} gives {c} stickers to each of {d} friends. How "
        "many stickers does {he} keep?",
        ("t = a * b", "{name} buys {sum} sticker{s}."),
        ("u = c * d", "{name} gives away {sum} sticker{s}."),
        ("v = t - u", "{name} keeps {sum} sticker{s}."),
        held_out=True,
        a=range(3, 9),
        b=range(8, 21),
        c=range(2, 9),
        d=range(2, 9),
        x=range(3, 9),
    ),
)
_PERCENT = range(5, 100, 5)
_RATES = (
    _multi_step_frame(
        5,
        "steady_speed",
        "A car drives {a} km in {b} hours. How many km does it drive in {c} hours at the same speed?",
        ("t = a / b", "In one hour the car drives {sum} km."),
        ("u = t * c", "In {c} hours it drives {sum} km."),
        a=range(90, 390, 10),
        b=range(3, 7),
        c=range(2, 10),
    ),
    _multi_step_frame(
        5,
        "gives_a_part",
        "{name} has {a} {things} and gives {part} of them to {other}. How many {things} does {name} have left?",
        ("t = a / k", "{name} gives away {sum} {things}."),
        ("u = a - t", "That leaves {sum} {things}."),
        a=range(6, 120),
        k=tuple(PARTS),
    ),
    _multi_step_frame(
        5,
        "discount",
        "A jacket costs {a} dollars. In a sale its price is {p} percent lower. How many dollars does it cost in "
        "the sale?",
        ("t = a * p / 100", "The price falls by {sum} dollar{s}."),
        ("u = a - t", "In the sale the jacket costs {sum} dollar{s}."),
        a=range(20, 205, 5),
        p=_PERCENT,
    ),
    _multi_step_frame(
        5,
        "not_by_bus",
        "A school has {a} pupils, and {p} percent of them come by bus. How many pupils do not come by bus?",
        ("t = a * p / 100", "By bus come {sum} of them."),
        ("u = a - t", "Not by bus come {sum} of them."),
        a=range(40, 800, 20),
        p=_PERCENT,
    ),
    _multi_step_frame(
        5,
        "price_of_several",
        "{name} pays {b} dollars for {a} notebooks. How many dollars do {c} notebooks cost at the same price?",
        ("t = b / a", "One notebook costs {sum} dollar{s}."),
        ("u = t * c", "Together they cost {sum} dollar{s}."),
        a=range(2, 9),
        b=range(6, 60),
        c=range(3, 15),
    ),
    _multi_step_frame(
        5,
        "tap",
        "From a tap flow {a} liters of water in {b} minutes. How many minutes does it take to fill a tank of {c} "
        "liters?",
        ("t = a / b", "In one minute flow {sum} liter{s}."),
        ("u = c / t", "To fill the tank takes {sum} minute{s}."),
        a=range(10, 100),
        b=range(2, 10),
        c=range(50, 400, 10),
    ),
    _multi_step_frame(
        5,
        "recipe",
        "A recipe for {a} people needs {b} grams of flour. How many grams of flour are needed for {c} people?",
        ("t = b / a", "One person needs {sum} gram{s}."),
        ("u = t * c", "All of them need {sum} gram{s}."),
        a=range(2, 9),
        b=range(100, 900, 20),
        c=range(3, 15),
    ),
    _multi_step_frame(
        5,
        "for_every",
        "On a chain there are {b} blue beads for every {a} red beads. The chain has {c} red beads. How many blue "
        "beads does it have?",
        ("t = c / a", "The red beads make {sum} group{s}."),
        ("u = t * b", "With them go {sum} blue bead{s}."),
        a=range(2, 7),
        b=range(2, 10),
        c=range(6, 60),
    ),
    _multi_step_frame(
        5,
        "price_rises",
        "A ticket costs {a} dollars. The price rises by {p} percent. How many dollars does the ticket cost then?",
        ("t = a * p / 100", "The price rises by {sum} dollar{s}."),
        ("u = a + t", "Then the ticket costs {sum} dollar{s}."),
        a=range(20, 205, 5),
        p=range(5, 55, 5),
    ),
    _multi_step_frame(
        5,
        "some_of_every",
        "A warehouse has {a} {things}. Of every {k} {things} {m} are new. How many of the {things} are new?",
        ("t = a / k", "The {things} make {sum} group{s} of {k}."),
        ("u = t * m", "New are {sum} {things}."),
        a=range(20, 300),
        k=range(6, 11),
        m=range(2, 6),
    ),
    _multi_step_frame(
        5,
        "cycles_and_walks",
        "{name} cycles {b} hours at {a} km an hour and then walks {d} hours at {c} km an hour. How many km is "
        "that in all?",
        ("t = a * b", "By bicycle that is {sum} km."),
        ("u = c * d", "On foot that is {sum} km."),
        ("v = t + u", "In all that is {sum} km."),
        held_out=True,
        a=range(10, 26),
        b=range(2, 6),
        c=range(3, 7),
        d=range(2, 5),
    ),
    _multi_step_frame(
        5,
        "tank",
        "There are {a} liters of oil in a tank. First {part} of the oil is used, and then {b} liters are filled "
        "in. How many liters are in the tank then?",
        ("t = a / k", "Of the oil {sum} liter{s} are used."),
        ("u = a - t", "That leaves {sum} liter{s}."),
        ("v = u + b", "Then the tank has {sum} liter{s}."),
        held_out=True,
        a=range(40, 300),
        b=range(5, 20),
        k=tuple(PARTS),
    ),
    _multi_step_frame(
        5,
        "wrong_answers",
        "A test has {a} questions. {name} answers {p} percent of them correctly. How many questions does {he} not "
        "answer correctly?",
        ("t = a * p / 100", "Correct are {sum} of them."),
        ("u = a - t", "Not correct are {sum} of them."),
        held_out=True,
        a=range(20, 121, 10),
        p=_PERCENT,
    ),
    _multi_step_frame(
        5,
        "printer",
        "A printer prints {a} pages in {b} minutes. How many pages does it print in {c} minutes?",
        ("t = a / b", "In one minute it prints {sum} page{s}."),
        ("u = t * c", "In {c} minutes it prints {sum} page{s}."),
        held_out=True,
        a=range(20, 200),
        b=range(2, 9),
        c=range(3, 16),
    ),
)
FRAMES = (*_ADD, *_TAKE_AWAY, *_GROUPS, *_SHARES, *_TWO_STEPS, *_THREE_STEPS, *_RATES)
