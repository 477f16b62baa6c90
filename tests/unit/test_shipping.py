"""Functions of cells and scripts as plugin files: what they use comes along, what cannot is refused by name."""

from __future__ import annotations

import ast
import linecache
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reasoner import Score
from reasoner.api.shipping import plugin_text, write_plugin
from reasoner.errors import UserError
from reasoner.plugins.manager import build_manager, reward_sources
from reasoner.testing.cases import make_problem, make_response
from tests.notebook import Cells

PROBLEM = make_problem("far?", "5 km")


@pytest.fixture
def cells() -> Cells:
    result = Cells()
    result.run("from reasoner import Score, reward")
    return result


def called(cells: Cells, folder: Path, response: str, **options: Any) -> Any:
    """What the source `verifier` of the cells returns when it is loaded from its file."""
    file = write_plugin(cells.namespace["verifier"], folder)
    return reward_sources(build_manager([str(file)]))[cells.namespace["verifier"].name](
        PROBLEM, make_response(response), **options
    )


def test_everything_that_a_function_uses_comes_along(cells: Cells, tmp_path: Path) -> None:
    cells.run("""
import math
import os.path
import re
import xml.dom
import xml.dom.minidom
from decimal import Decimal as Exact
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

WORDS = {"km": [1, (2.5, None)], "m": {"x", "y"}}
PATTERNS = {"number": re.compile(r"\\d+", re.IGNORECASE)}
PLACE = Path("some") / "where"
LIMIT = float("inf")
""")
    cells.run("""
class Base(BaseModel):
    unit: Literal["km", "m"] = "km"


class Options(Base):
    factor: float = Field(2.0, gt=0)

    def applied(self, value):
        return self.factor * even(value)


@lru_cache(maxsize=None)
def lowered(text):
    return os.path.basename(text).lower()


def even(number):
    return 1 if number == 0 else odd(number - 1)


def odd(number):
    return 0 if number == 0 else even(number - 1)


def text_of(response):
    return lowered(response.text)


alias = text_of


@reward("verifier", timeout_s=3.0)
async def verifier(problem, response, *, options: Options) -> Score:
    \"\"\"What it says.\"\"\"
    assert_nothing = [WORDS[options.unit] for _ in range(1)]
    parsed = xml.dom.minidom.parseString("<a/>").documentElement.tagName
    numbers = PATTERNS["number"].findall(alias(response))
    value = options.applied(len(numbers)) * float(np.sign(math.pi)) + float(Exact(0))
    return Score(min(value, LIMIT), note=f"{PLACE} {parsed} {assert_nothing[0]}")
""")
    file = write_plugin(cells.namespace["verifier"], tmp_path)
    program = (
        "import sys\nfrom reasoner.plugins.manager import build_manager, reward_sources\n"
        "from reasoner.testing.cases import make_problem, make_response\n"
        "source = reward_sources(build_manager(sys.argv[1:]))['verifier']\n"
        "print(source(make_problem('q', 'a'), make_response('a/10 KM and 20'), factor=3.0), source.timeout_s)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=60)
    assert "value=3.0" in done.stdout, done.stderr
    assert "note='some/where a [1, (2.5, None)]'" in done.stdout
    assert done.stdout.endswith("3.0\n")


def test_a_value_is_what_it_was_when_the_function_was_given(cells: Cells, tmp_path: Path) -> None:
    cells.run(
        "UNIT = 'km'\n@reward('verifier')\ndef verifier(problem, response):\n    return float(UNIT in response.text)"
    )
    first = write_plugin(cells.namespace["verifier"], tmp_path)
    cells.run("UNIT = 'mile'")
    second = write_plugin(cells.namespace["verifier"], tmp_path)
    assert first.name == second.name == "verifier.py"
    assert first != second  # beside each other: a run that goes on finds the one that it began with
    assert called(cells, tmp_path, "a mile") == 1.0
    assert write_plugin(cells.namespace["verifier"], tmp_path) == second


def test_the_file_is_the_same_in_every_process(tmp_path: Path) -> None:
    program = """
from tests.notebook import Cells
from reasoner.api.shipping import plugin_text
cells = Cells()
cells.run("from reasoner import reward\\nimport os, json, os.path\\nNAMES = {'a', 'b', 'c', 'd', 'e', 'f'}")
cells.run("@reward('v')\\ndef v(p, r):\\n    return float(r.text in NAMES and os.path.exists(json.dumps(os.sep)))")
print(plugin_text(cells.namespace["v"]))
"""
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert "NAMES = set(['a', 'b', 'c', 'd', 'e', 'f'])" in texts.pop()


REFUSED = {
    "a lambda": ("verifier = reward('verifier')(lambda p, r: 1.0)", "is a lambda; write it with def"),
    "no decorator": (
        "def plain(p, r):\n    return 1.0\nverifier = reward('verifier')(plain)",
        "made without the decorator; write @reward",
    ),
    "a closure": (
        "def make(unit):\n    @reward('verifier')\n    def inner(p, r):\n        return float(unit in r.text)\n"
        "    return inner\nverifier = make('km')",
        "uses 'unit' of the function around it; make that an option",
    ),
    "a lambda beside it": (
        "clean = lambda text: text\n@reward('verifier')\ndef verifier(p, r):\n    return len(clean(r.text))",
        "uses 'clean', which is a lambda",
    ),
    "an open file": (
        "file = open('/dev/null')\nfile.close()\n@reward('verifier')\ndef verifier(p, r):\n    return file.read()",
        "uses 'file' (_io.TextIOWrapper), which cannot be written into a file; make it in the function",
    ),
    "an object": (
        "class Client:\n    def ask(self):\n        return 1.0\nclient = Client()\n@reward('verifier')\n"
        "def verifier(p, r):\n    return client.ask()",
        "uses 'client' (Client), which cannot be written",
    ),
    "an object of a helper": (
        "lock = object()\ndef helper():\n    return lock\n@reward('verifier')\n"
        "def verifier(p, r):\n    return helper()",
        "uses 'lock' (object)",
    ),
    "an object inside of a list": (
        "things = [1, object()]\n@reward('verifier')\ndef verifier(p, r):\n    return things[0]",
        "uses 'things' (list)",
    ),
    "a bound method": (
        "class Client:\n    def ask(self):\n        return 1.0\nask = Client().ask\n@reward('verifier')\n"
        "def verifier(p, r):\n    return ask()",
        "uses 'ask'",
    ),
    "a partial": (
        "from functools import partial\nadd = partial(max, 1)\n@reward('verifier')\n"
        "def verifier(p, r):\n    return add(2)",
        "uses 'add' (functools.partial)",
    ),
    "something that is not there": (
        "@reward('verifier')\ndef verifier(p, r):\n    return not_there",
        "uses 'not_there', which is not defined here",
    ),
    "a key": (
        "API_KEY = 'abcdefgh12345678'\n@reward('verifier')\ndef verifier(p, r):\n    return len(API_KEY)",
        "uses 'API_KEY', which looks like a secret; read it from the environment",
    ),
    "too much": (
        "table = list(range(300_000))\n@reward('verifier')\ndef verifier(p, r):\n    return len(table)",
        "uses 'table', whose value takes",
    ),
    "two of one name": (
        "def f():\n    return 1.0\ng = f\ndef f():\n    return g()\n@reward('verifier')\n"
        "def verifier(p, r):\n    return f()",
        "two different things that are both called 'f'",
    ),
    "made of another": (
        "from functools import lru_cache\ndef plain():\n    return 1.0\nkept = lru_cache(plain)\n"
        "@reward('verifier')\ndef verifier(p, r):\n    return kept()",
        "uses 'kept', which is made of 'plain'; decorate that instead of its def",
    ),
    "wrapped afterwards": (
        "from functools import lru_cache\ndef plain():\n    return 1.0\nplain = lru_cache(plain)\n"
        "@reward('verifier')\ndef verifier(p, r):\n    return plain()",
        "uses 'plain', which is made of 'plain'",
    ),
}


@pytest.mark.parametrize(("cell", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_come_along_is_refused_by_name(cells: Cells, cell: str, message: str) -> None:
    cells.run(cell)
    with pytest.raises(UserError) as refused:
        plugin_text(cells.namespace["verifier"])
    assert message in str(refused.value)
    assert str(refused.value).startswith("reward source 'verifier' cannot be given to the workers that call it")
    assert "plugins=['my_verifier.py']" in str(refused.value)


def test_a_function_without_source_is_refused(cells: Cells) -> None:
    exec("@reward('verifier')\ndef verifier(p, r):\n    return 1.0", cells.namespace)
    with pytest.raises(UserError, match="has no source that can be read"):
        plugin_text(cells.namespace["verifier"])


SCRIPT = """
from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import helpers
from helpers import cleaned
from reasoner import Score, reward
from reasoner.api.shipping import write_plugin

if TYPE_CHECKING:
    from reasoner import Response

LIMIT = 3
Number = int


def text_of(response: Response) -> str:
    return cleaned(response.text)


@reward("verifier")
def verifier(problem, response, *, limit: Number = 2) -> Score:
    return Score(float(len(text_of(response)) > limit + helpers.MORE))


if __name__ == "__main__":
    print(write_plugin(verifier, __import__("pathlib").Path(sys.argv[1])))
"""
HELPERS = "MORE = 1\n\n\ndef cleaned(text):\n    return text.strip()[MORE:]\n"


def test_a_script_and_a_module_beside_it(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "script.py").write_text(SCRIPT)
    script = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "plugins")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    text = file.read_text()
    assert "def cleaned(text):" in text  # of a file beside the script: a change of it is a change of the plugin
    assert f"sys.path.append({str(tmp_path)!r})" in text  # for `helpers.MORE`
    source = reward_sources(build_manager([str(file)]))["verifier"]
    assert source(PROBLEM, make_response(" 12345"), limit=2) == Score(1.0)
    assert source(PROBLEM, make_response(" 1234"), limit=2) == Score(0.0)
    assert "limit" in source.options.model_fields


def test_a_name_stands_for_one_thing_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules may mean different things by it, and the file is one module."""
    (tmp_path / "others.py").write_text(
        "import json as codec\nWORTH = 1.0\ndef f(text):\n    return codec.dumps(text)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    cells = Cells()
    cells.run("from reasoner import reward\nfrom others import f\nimport re as codec")
    cells.run("@reward('verifier')\ndef verifier(p, r):\n    return float(len(f(codec.escape(r.text))))")
    with pytest.raises(UserError, match="two different things that are both called 'codec'"):
        plugin_text(cells.namespace["verifier"])
    cells.run("import json as codec")
    assert plugin_text(cells.namespace["verifier"]).count("import json as codec") == 1


def test_tables_of_data_are_refused_by_name(cells: Cells) -> None:
    cells.run("import numpy as np\nimport pandas as pd\ntable = pd.Series([1], name=('a', 'b'))\narray = np.zeros(3)")
    for name, kind in {"table": "pandas.*Series", "array": "numpy.ndarray"}.items():
        cells.run(f"@reward('verifier')\ndef verifier(p, r):\n    return float({name}[0])")
        with pytest.raises(UserError, match=rf"uses '{name}' \({kind}\)"):
            plugin_text(cells.namespace["verifier"])


TOGETHER = """
import re
from reasoner import reward
@reward('verifier')
def verifier(p, r):
    return float(re.search('k', r.text) is not None)
"""


def test_a_cell_with_imports_may_be_compiled_at_once_or_by_statements(cells: Cells) -> None:
    """As Python and IPython do: calls of what is imported in the same text are other ones."""
    at_once = plugin_text(cells.run(TOGETHER + "verifier"))
    name = "<by statements>"
    linecache.cache[name] = (len(TOGETHER), None, TOGETHER.splitlines(keepends=True), name)
    for statement in ast.parse(TOGETHER).body:
        exec(compile(ast.Module([statement], []), name, "exec"), cells.namespace)
    assert plugin_text(cells.namespace["verifier"]) == at_once


def test_a_script_that_was_edited_meanwhile_is_noticed(tmp_path: Path) -> None:
    program = tmp_path / "script.py"
    text = "from reasoner import reward\n@reward('verifier')\ndef verifier(p, r):\n    return {}\n"
    program.write_text(text.format("1.0"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program.read_text(), str(program), "exec"), namespace)
    assert "return 1.0" in plugin_text(namespace["verifier"])
    for other in ("22.0", "-1.0", "1.0 + r"):
        program.write_text(text.format(other))
        with pytest.raises(UserError, match="has changed in its file since it was defined"):
            plugin_text(namespace["verifier"])
