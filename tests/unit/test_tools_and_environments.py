"""What `@tool` and `@environment` make of functions and classes, and how plugins register them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from reasoner import Message, Observation, Problem, Tool, Turn, environment, tool
from reasoner.config import EnvironmentConfig
from reasoner.environments.choose import choose
from reasoner.errors import ConfigError, UserError
from reasoner.plugins import manager as hooks
from reasoner.plugins.importing import PluginError


@tool("convert", timeout_s=1.0)
def convert(amount: Annotated[float, Field(gt=0)], unit: Literal["mile", "yard"] = "mile", *, places: int = 2) -> str:
    """Convert an amount
    to metres.

    Args:
        amount: how many
        unit: what of,
            by its name
        places: digits after the point
    """
    return f"{amount * (1609.344 if unit == 'mile' else 0.9144):.{places}f} m"


class NoteOptions(BaseModel):
    most: int = 3


@tool
class notes:  # noqa: N801
    """Keep a note."""

    def __init__(self, *, options: NoteOptions) -> None:
        self.most = options.most
        self.kept: list[str] = []

    def __call__(self, text: str) -> str:
        self.kept = [*self.kept, text][-self.most :]
        return "; ".join(self.kept)


noting: Any = notes  # mypy does not see what a decorator makes of a class


def test_arguments_stand_before_the_star_and_options_behind_it() -> None:
    assert (convert.name, convert.timeout_s, convert.description) == ("convert", 1.0, "Convert an amount to metres.")
    assert convert.schema == {
        "type": "object",
        "properties": {
            "amount": {"type": "number", "exclusiveMinimum": 0, "description": "how many"},
            "unit": {
                "type": "string",
                "enum": ["mile", "yard"],
                "default": "mile",
                "description": "what of, by its name",
            },
        },
        "required": ["amount"],
        "additionalProperties": False,
    }
    assert convert.check_options({}) == {"places": 2}
    assert not convert.is_stateful({})
    assert convert.opened({"places": 0})(**convert.values({"amount": "2"})) == "3219 m"


def test_a_class_is_a_tool_with_state_and_options_as_a_model() -> None:
    assert isinstance(noting, Tool)
    assert (noting.name, noting.check_options({}), noting.is_stateful({})) == ("notes", {"most": 3}, True)
    opened = noting.opened({"most": 2})
    assert [opened(text=each) for each in "abc"] == ["a", "a; b", "b; c"]
    assert list(noting.schema["properties"]) == ["text"]


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"amount": 3}, ""),
        ({"amount": 3.5, "unit": "yard"}, ""),
        ({}, "convert needs the argument 'amount'. It takes: amount, unit."),
        (
            {"amount": 3, "units": "yard"},
            "convert has no argument 'units'. Did you mean 'unit'? It takes: amount, unit.",
        ),
        ({"amount": 3, "places": 1}, "convert has no argument 'places'. It takes: amount, unit."),
        ({"amount": "three"}, "convert, argument 'amount': Input should be a valid number"),
        ({"amount": -1}, "convert, argument 'amount': Input should be greater than 0."),
        ({"amount": 1, "unit": "inch"}, "convert, argument 'unit': Input should be 'mile' or 'yard'."),
    ],
)
def test_wrong_arguments_are_said_in_words(arguments: Mapping[str, Any], wrong: str) -> None:
    message = convert.check_arguments(arguments)
    assert message.startswith(wrong)
    assert bool(message) == bool(wrong)


def documented(text: str) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        function.__doc__ = text
        return function

    return decorate


def test_what_cannot_be_a_tool_is_refused_where_it_is_declared() -> None:
    @documented("d")
    def bare(amount) -> str:  # type: ignore[no-untyped-def]
        return ""

    @documented("d")
    def many(*amounts: int) -> str:
        return ""

    @documented("d")
    def positional(amount: int, /) -> str:
        return ""

    def silent(amount: int) -> str:
        return ""

    class NotCalled:
        """d"""

    class LooseOption:
        """d"""

        def __init__(self, most: int) -> None: ...

        def __call__(self) -> str:
            return ""

    class OptionOfCall:
        """d"""

        def __call__(self, *, text: str) -> str:
            return ""

    for function, words in (
        (bare, "the argument 'amount' needs an annotation"),
        (many, "declare each argument by its name"),
        (positional, "declare each argument by its name"),
        (silent, "needs a docstring"),
        (NotCalled, "must have __call__"),
        (LooseOption, "__init__ takes options only"),
        (OptionOfCall, "options stand behind the \\* of __init__"),
        (3, "needs a function"),
    ):
        with pytest.raises(TypeError, match=words):
            tool("x")(function)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a tool cannot be called 'a b'"):
        tool("a b")(bare)
    with pytest.raises(ValueError, match="timeout_s must be above 0"):
        tool("x", timeout_s=0)(convert.function)
    with pytest.raises(TypeError, match="a function keeps no state"):
        tool("x", keeps_state=True)(convert.function)


class Walk:
    """Walk to the goal. It is far.

    Args:
        far: steps to the goal
    """

    def __init__(self, *, far: int = 3) -> None:
        self.far = far

    def start(self, problem: Problem) -> str:
        return f"The goal is {self.far} steps away."

    @tool
    def move(self, steps: int) -> str:
        """Walk some steps."""
        self.far -= steps
        return f"{self.far} to go"

    def step(self, turn: Turn) -> Observation:
        return Observation((Message("user", "Well?"),), done=self.far <= 0)


walk = environment("walk", timeout_s=3.0)(Walk)


def test_an_environment_has_options_and_brings_tools() -> None:
    assert (walk.name, walk.summary, walk.timeout_s, walk.steps) == ("walk", "Walk to the goal", 3.0, True)
    assert walk.check_options({}) == {"far": 3}
    assert list(walk.tools) == ["move"]
    assert list(walk.tools["move"].schema["properties"]) == ["steps"]
    made = walk(far=5)
    assert made.move(2) == "3 to go"
    with pytest.raises(ConfigError, match=r"environment 'walk' has no option 'fat'\. Did you mean 'far'"):
        walk.check_options({"fat": 1})


def test_what_cannot_be_an_environment_is_refused_where_it_is_declared() -> None:
    class NoStart:
        def step(self, turn: Turn) -> None: ...

    class NoStep:
        def start(self, problem: Problem) -> None: ...

    class OddStep(NoStep):
        def step(self) -> None: ...

    class LooseSetting(NoStep):
        def __init__(self, far: int) -> None: ...

        def step(self, turn: Turn) -> None: ...

    class OddTool(NoStep):
        @documented("d")
        def move(self, *, steps: int) -> str:
            return ""

    for made_by, words in (
        (NoStart, "needs the method start"),
        (NoStep, "needs the method step"),
        (OddStep, r"step must take \(self, turn\)"),
        (LooseSetting, "__init__ takes options only"),
        (print, "needs a class"),
    ):
        with pytest.raises(TypeError, match=words):
            environment("x")(made_by)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="options stand with the environment"):
        tool("move")(OddTool.move)
    with pytest.raises(TypeError, match="an environment needs a name"):
        environment(Walk)  # type: ignore[arg-type]


PLUGIN = '''
from reasoner import environment, hookimpl, tool

@tool
def echo(text: str) -> str:
    """Say it again."""
    return text

@environment("{name}")
class Echo:
    """It says it again."""
    def start(self, problem): ...
    def step(self, turn): return turn.text
'''
REGISTERED = (
    PLUGIN
    + """
@hookimpl
def register_tools():
    return [echo]

@hookimpl
def register_environments():
    return [Echo]
"""
)


def manager_with(folder: Path, *texts: str) -> Any:
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"plugin{number}.py")
        files[-1].write_text(text)
    return hooks.build_manager([str(file) for file in files])


def test_a_file_registers_them_and_a_name_is_registered_once(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, REGISTERED.format(name="own"))
    assert "echo" in hooks.tools(manager)
    assert "calculator" in hooks.tools(manager)
    assert hooks.environments(manager)["own"].summary == "It says it again"
    assert hooks.registrations(manager)[-1].tools == ("echo",)
    assert hooks.registrations(manager)[-1].environments == ("own",)
    twice = manager_with(tmp_path, REGISTERED.format(name="own"), REGISTERED.format(name="other"))
    with pytest.raises(PluginError, match=r"tool .echo. is registered twice: .*plugin1.py and .*plugin0.py"):
        hooks.tools(twice)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLUGIN.format(name="x"), "marks echo with @tool and does not register it"),
        (
            "from reasoner import hookimpl\n@hookimpl\ndef register_tools():\n    return [print]",
            "marked with @tool, got",
        ),
        (
            "from reasoner import hookimpl\n@hookimpl\ndef register_environments():\n    return [int]",
            "marked with @environment, got",
        ),
        (PLUGIN.format(name="x").replace('@environment("x")', "@environment"), "an environment needs a name"),
        (
            PLUGIN.format(name="x").replace(
                "def start(self, problem): ...", "@tool\n    def t(self) -> str:\n        'd'"
            )
            + "\n@hookimpl\ndef register_tools():\n    return [Echo.t]",
            "needs the method start",
        ),
    ],
)
def test_what_a_file_gets_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    def registered() -> None:
        hooks.registrations(manager_with(tmp_path, text))

    with pytest.raises(PluginError, match=words):
        registered()


def chosen(tools: Sequence[str] = (), **section: Any) -> Any:
    config = EnvironmentConfig(tools=list(tools), **section)
    return choose(config, {"convert": convert, "notes": noting, "move": convert}, {"walk": walk})


def test_what_a_section_chooses() -> None:
    both = chosen(["convert", "notes"], name="walk", tool_options={"convert": {"places": 0}})
    assert list(both.tools) == ["move", "convert", "notes"]
    assert [each.keeps_state for each in both.tools.values()] == [True, False, True]
    assert both.tools["convert"].options == {"places": 0}
    assert both.tools["convert"].description.name == "convert"
    assert (both.timeout_s, both.tools["convert"].timeout_s) == (3.0, 1.0)
    assert chosen(["convert"], timeout_s=7.0).tools["convert"].timeout_s == 7.0
    assert not chosen(["convert"]).keeps_state
    assert chosen(["notes"]).keeps_state
    with pytest.raises(ConfigError, match="'move' is a tool that environment 'walk' brings itself"):
        chosen(["move"], name="walk")
    with pytest.raises(ConfigError, match="environment 'walk', option 'far': Input should be a valid integer"):
        chosen(name="walk", options={"far": "x"})


def test_a_preflight_says_what_is_missing() -> None:
    def preflight(options: Any) -> str:
        raise UserError("nothing is here")

    needy = tool("needy", preflight=preflight)(convert.function)
    with pytest.raises(UserError, match="tool 'needy' cannot work here: nothing is here"):
        needy.ready({})
    assert convert.ready({}) == ""
