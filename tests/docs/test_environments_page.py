"""The plugins of `docs/environments.md` as they stand there, and its task."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reasoner.config import EnvironmentConfig
from reasoner.environments import choose
from reasoner.errors import ToolError
from reasoner.io.parsing import parse_toml
from reasoner.plugins import manager as hooks
from reasoner.records import Observation, ToolCall, Turn
from reasoner.testing import make_problem

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python\n(.*?@(tool|environment)\(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))


def plugin(folder: Path, kind: str) -> str:
    (text,) = (text for text, decorator in BLOCKS.items() if decorator == kind)
    file = folder / f"my_{kind}.py"
    file.write_text(text)
    return str(file)


def test_the_tool_does_what_the_page_says(tmp_path: Path) -> None:
    convert = hooks.tools(hooks.build_manager([plugin(tmp_path, "tool")]))["convert"]
    assert convert.opened({"places": 0})(**convert.values({"amount": 2, "unit": "mile"})) == "3219 m"
    assert list(convert.schema["properties"]) == ["amount", "unit"]
    with pytest.raises(ToolError, match="there is no unit 'inch'; there are mile, yard"):
        convert(2, "inch")


def test_the_environment_does_what_the_page_says(tmp_path: Path) -> None:
    walk = hooks.environments(hooks.build_manager([plugin(tmp_path, "environment")]))["walk"]
    game = walk(longest=4)
    assert game.start(make_problem("Walk.", "7")) == "You stand on 0. Walk to 7."
    assert game.move(9) == "You stand on 4."
    assert not game.step(Turn("assistant", 0, 1, "", (ToolCall("move"),))).done
    assert game.move(3) == "You stand on 7."
    assert game.step(Turn("assistant", 0, 1, "")) == Observation(done=True, reward=1.0, parts={"place": 7})


def test_the_section_of_the_page_is_one() -> None:
    (text,) = re.findall(r"^```toml\n(\[environment\].*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    table = parse_toml(text)
    manager = hooks.build_manager()
    chosen = choose(EnvironmentConfig(**table["environment"]), hooks.tools(manager), hooks.environments(manager))
    assert chosen.tools["python"].options["timeout_s"] == 4.0
    assert {reward["source"] for reward in table["rewards"]} <= set(hooks.reward_sources(manager))
