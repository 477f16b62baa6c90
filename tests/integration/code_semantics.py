"""Small problems whose tests look at more than plain values, each with programs and what plain Python says of them.

`test_code_semantics.py` runs each program as plain Python and through the source `code`: both must agree, but for those
that are marked `UNJUDGED`, where the source must say that it cannot judge the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True)
class Problem:
    """A reference program that passes its test, and programs that do not."""

    name: str
    reference: str
    test: str
    wrong: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    """other programs that pass"""
    judged: bool = True
    """whether the harness can judge it; if not, it must say so"""


PROBLEMS: list[Problem] = []


def problem(
    name: str, reference: str, test: str, *wrong: str, right: tuple[str, ...] = (), judged: bool = True
) -> None:
    """Adds one."""
    texts = [dedent(text).strip() + "\n" for text in (reference, test)]
    PROBLEMS.append(
        Problem(name, texts[0], texts[1], tuple(map(dedent, wrong)), tuple(map(dedent, right)), judged=judged)
    )


# Arguments

problem(
    "sorts in place",
    "def f(x): x.sort()",
    "a = [3, 1, 2]\nassert f(a) is None\nassert a == [1, 2, 3]",
    "def f(x): pass",
    "def f(x): x = sorted(x)",
    "def f(x): x.sort(); return x",
    right=("def f(x): x[:] = sorted(x)",),
)
problem(
    "must not change its argument",
    "def f(x): return sorted(x)",
    "a = [3, 1]\nassert f(a) == [1, 3]\nassert a == [3, 1]",
    "def f(x):\n    x.sort()\n    return x",
)
problem(
    "returns a copy",
    "def f(x): return list(x)",
    "a = [3, 1]\nb = f(a)\nassert b == a and b is not a",
    "def f(x): return x",
)
problem(
    "returns its argument",
    "def f(x):\n    x.append(1)\n    return x",
    "a = []\nassert f(a) is a\nassert a == [1]",
    "def f(x): return x + [1]",
)
problem(
    "deep copy",
    "import copy\ndef f(x): return copy.deepcopy(x)",
    "a = [[1], {2: [3]}]\nb = f(a)\nb[0].append(9)\nb[1][2].append(9)\nassert a == [[1], {2: [3]}]\nassert b == [[1, 9], {2: [3, 9]}]",
    "def f(x): return list(x)",
    "def f(x): return x",
)
problem(
    "changes a nested argument",
    "def f(grid):\n    for row in grid: row.reverse()",
    "g = [[1, 2], [3, 4]]\nrow = g[0]\nf(g)\nassert g == [[2, 1], [4, 3]]\nassert row is g[0] and row == [2, 1]",
    "def f(grid): grid[:] = [row[::-1] for row in grid]",
    "def f(grid): pass",
)
problem(
    "changes a dict",
    "def f(d, k): d.setdefault(k, []).append(1)",
    "d = {}\nf(d, 'a')\nf(d, 'a')\nassert d == {'a': [1, 1]}\nassert list(d) == ['a']",
    "def f(d, k): d = {k: [1, 1]}",
    "def f(d, k): d[k] = [1]",
)
problem("changes a set", "def f(s): s.discard(1)", "s = {1, 2}\nf(s)\nassert s == {2}", "def f(s): return s - {1}")
problem(
    "changes a bytearray",
    "def f(b): b[0] = 65",
    "b = bytearray(b'xyz')\nf(b)\nassert b == bytearray(b'Ayz')\nassert isinstance(b, bytearray)",
    "def f(b): return b'A' + b[1:]",
)
problem(
    "changes a deque",
    "def f(d): d.rotate(1)",
    "from collections import deque\nd = deque([1, 2, 3])\nf(d)\nassert d == deque([3, 1, 2])",
    "def f(d): d.rotate(-1)",
)
problem(
    "keeps what it was given",
    "class Bag:\n    def __init__(self, items): self.items = items\n    def add(self, x): self.items.append(x)",
    "a = [1]\nbag = Bag(a)\nbag.add(2)\nassert a == [1, 2]\na.append(3)\nassert bag.items == [1, 2, 3]\nassert bag.items is a",
    "class Bag:\n    def __init__(self, items): self.items = list(items)\n    def add(self, x): self.items.append(x)",
)
problem(
    "keeps a copy of what it was given",
    "class Bag:\n    def __init__(self, items): self.items = list(items)\n    def count(self): return len(self.items)",
    "a = [1]\nbag = Bag(a)\na.append(2)\nassert bag.count() == 1",
    "class Bag:\n    def __init__(self, items): self.items = items\n    def count(self): return len(self.items)",
)
problem(
    "hands out a copy",
    "class Bag:\n    def __init__(self): self._x = [1]\n    def get(self): return self._x[:]",
    "bag = Bag()\nbag.get().append(5)\nassert bag.get() == [1]",
    "class Bag:\n    def __init__(self): self._x = [1]\n    def get(self): return self._x",
)
problem(
    "no shared default",
    "def f(x, acc=None):\n    acc = [] if acc is None else acc\n    acc.append(x)\n    return acc",
    "a = f(1)\nb = f(2)\nassert a == [1]\nassert b == [2]\nassert a is not b",
    "def f(x, acc=[]):\n    acc.append(x)\n    return acc",
)
problem(
    "no shared rows",
    "def f(n): return [[0] * n for _ in range(n)]",
    "g = f(2)\ng[0][0] = 1\nassert g == [[1, 0], [0, 0]]",
    "def f(n): return [[0] * n] * n",
)
problem(
    "a cached list",
    "from functools import cache\n@cache\ndef f(n): return [n]",
    "assert f(1) is f(1)\nassert f(1) is not f(2)",
    "def f(n): return [n]",
)
problem(
    "two arguments that are one",
    "def f(a, b): return a is b",
    "x = []\nassert f(x, x) is True\nassert f(x, []) is False",
    "def f(a, b): return a == b",
)
problem(
    "an argument's tuple of lists",
    "def f(t): t[0].append(1)",
    "t = ([], 2)\nf(t)\nassert t == ([1], 2)",
    "def f(t): return ([1], 2)",
)
problem(
    "removes while a loop runs",
    "def f(x):\n    while 0 in x: x.remove(0)\n    return len(x)",
    "for n in range(5):\n    a = [0] * n + [1]\n    assert f(a) == 1\n    assert a == [1]",
    "def f(x):\n    for y in x:\n        if y == 0: x.remove(y)\n    return 1",
)

# Kinds of values

problem(
    "decimal",
    "from decimal import Decimal\ndef f(x): return Decimal(x) / 4",
    "from decimal import Decimal\nassert f('1') == Decimal('0.25')\nassert isinstance(f('1'), Decimal)\nassert str(f('1')) == '0.25'",
    "def f(x): return float(x) / 4",
    "from decimal import Decimal\ndef f(x): return Decimal('0.250')",
)
problem(
    "decimal as a number",
    "from decimal import Decimal\ndef f(x): return Decimal(x)",
    "assert f(2) == 2",
    "def f(x): return '2'",
)
problem(
    "fraction as a number",
    "from fractions import Fraction\ndef f(x): return Fraction(x, 2)",
    "assert f(1) == 0.5",
    "from fractions import Fraction\ndef f(x): return Fraction(x, 3)",
)
problem(
    "fraction",
    "from fractions import Fraction\ndef f(a, b): return Fraction(a, b)",
    "from fractions import Fraction\nassert f(2, 4) == Fraction(1, 2)\nassert f(2, 4).denominator == 2\nassert type(f(1, 2)) is Fraction",
    "def f(a, b): return a / b",
)
problem(
    "date",
    "import datetime\ndef f(y): return datetime.date(y, 1, 1)",
    "from datetime import date, timedelta\nassert f(2024) == date(2024, 1, 1)\nassert f(2025) - f(2024) == timedelta(days=366)\nassert f(2024).isoformat() == '2024-01-01'",
    "import datetime\ndef f(y): return datetime.datetime(y, 1, 1)",
    "def f(y): return f'{y}-01-01'",
)
problem(
    "datetime with a zone",
    "from datetime import *\ndef f(): return datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)",
    "from datetime import datetime, timezone, timedelta\nassert f() == datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)\nassert f().tzinfo is not None and f().utcoffset() == timedelta(0)",
    "from datetime import *\ndef f(): return datetime(2024, 1, 2, 3, 4, 5, 6)",
)
problem(
    "a date as an argument",
    "def f(d): return d.weekday()",
    "import datetime\nassert f(datetime.date(2024, 1, 1)) == 0",
    "def f(d): return 1",
)
problem(
    "deque",
    "from collections import deque\ndef f(n): return deque(range(n), maxlen=3)",
    "from collections import deque\nd = f(5)\nassert d == deque([2, 3, 4]) and d.maxlen == 3\nd.append(9)\nassert list(d) == [3, 4, 9]",
    "from collections import deque\ndef f(n): return deque([2, 3, 4])",
    "def f(n): return [2, 3, 4]",
)
problem(
    "named tuple",
    "from collections import namedtuple\nPoint = namedtuple('Point', 'x y')\ndef f(): return Point(1, 2)",
    "p = f()\nassert p.x == 1 and p.y == 2 and p == (1, 2)\nassert p._asdict() == {'x': 1, 'y': 2}\nassert isinstance(p, tuple)\na, b = p\nassert (a, b) == (1, 2)\nassert repr(p) == 'Point(x=1, y=2)'\nassert p._replace(x=5) == Point(5, 2)",
    "def f(): return (1, 2)\nPoint = None",
    "from collections import namedtuple\nPoint = namedtuple('Point', 'y x')\ndef f(): return Point(1, 2)",
)
problem(
    "typed named tuple",
    "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: int = 0",
    "assert P(1) == P(1, 0) == (1, 0)\nassert P(3).y == 0\nassert sorted([P(2), P(1)])[0].x == 1\nassert P._fields == ('x', 'y')",
    "class P:\n    def __init__(self, x, y=0): self.x, self.y = x, y",
)
problem(
    "enum",
    "from enum import Enum\nclass Color(Enum):\n    RED = 1\n    BLUE = 2\ndef f(n): return Color(n)",
    "assert f(1) is Color.RED and f(2) == Color.BLUE and f(1) != Color.BLUE\nassert f(1).name == 'RED' and f(2).value == 2\nassert len(Color) == 2 and [c.name for c in Color] == ['RED', 'BLUE']\nassert Color['RED'] is f(1)\nassert {f(1): 'x'}[Color.RED] == 'x'\nassert isinstance(f(1), Color)\nassert f(1) in Color",
    "from enum import Enum\nclass Color(Enum):\n    RED = 2\n    BLUE = 1\ndef f(n): return Color(n)",
    "class Color:\n    RED = 1\n    BLUE = 2\ndef f(n): return n",
)
problem(
    "int enum",
    "from enum import IntEnum\nclass Level(IntEnum):\n    LOW = 1\n    HIGH = 2\ndef f(n): return Level.HIGH if n > 5 else Level.LOW",
    "assert f(9) == 2 and f(9) is Level.HIGH and f(1) < f(9) and f(9).name == 'HIGH'\nassert f(9) + 1 == 3\nassert isinstance(f(9), int)\nassert [10, 20, 30][f(9)] == 30",
    "def f(n): return 2 if n > 5 else 1\nclass Level:\n    LOW, HIGH = 1, 2",
)
problem(
    "enum of the library",
    "from enum import Enum\nclass C(Enum):\n    A = 1",
    "from enum import Enum\nassert issubclass(C, Enum) and isinstance(C.A, Enum)",
    "class C:\n    A = 1",
)
problem(
    "defaultdict",
    "from collections import defaultdict\ndef f(xs):\n    d = defaultdict(list)\n    for x in xs: d[len(x)].append(x)\n    return d",
    "d = f(['a', 'bb', 'c'])\nassert d == {1: ['a', 'c'], 2: ['bb']}\nassert d[9] == []\nfrom collections import defaultdict\nassert isinstance(d, defaultdict) and d.default_factory is list",
    "def f(xs): return {1: ['a', 'c'], 2: ['bb']}",
)
problem(
    "defaultdict with a function of the program",
    "from collections import defaultdict\ndef f(): return defaultdict(lambda: 7)",
    "assert f()['x'] == 7",
    "from collections import defaultdict\ndef f(): return defaultdict(lambda: 8)",
)
problem(
    "ordered dict",
    "from collections import OrderedDict\ndef f():\n    d = OrderedDict(a=1, b=2)\n    d.move_to_end('a')\n    return d",
    "from collections import OrderedDict\nassert f() == OrderedDict(b=2, a=1)\nassert f() != OrderedDict(a=1, b=2)\nassert list(f().items()) == [('b', 2), ('a', 1)]",
    "def f(): return dict(a=1, b=2)",
)
problem(
    "counter",
    "from collections import Counter\ndef f(s): return Counter(s)",
    "c = f('hello')\nassert c['l'] == 2 and c['z'] == 0\nassert c.most_common(1) == [('l', 2)]\nassert c == {'h': 1, 'e': 1, 'l': 2, 'o': 1}",
    "def f(s): return {c: s.count(c) for c in s}",
)
problem(
    "bytes and bytearray",
    "def f(x): return bytearray(x)",
    "assert isinstance(f(b'a'), bytearray)\nassert f(b'a') == b'a'",
    "def f(x): return bytes(x)",
)
problem(
    "range",
    "def f(n): return range(n)",
    "assert f(3) == range(3) and isinstance(f(3), range) and f(9)[4] == 4",
    "def f(n): return list(range(n))",
)
problem(
    "complex",
    "def f(x): return complex(x, 1)",
    "z = f(2)\nassert z == 2 + 1j and z.imag == 1.0 and abs(z * z.conjugate() - 5) < 1e-9",
    "def f(x): return (x, 1)",
)
problem(
    "sets",
    "def f(x): return frozenset(x)",
    "assert f([1, 1]) == {1} and isinstance(f([1]), frozenset)\nassert {f([1]): 2}[frozenset([1])] == 2",
    "def f(x): return set(x)",
)
problem(
    "a set's kind",
    "def f(x): return set(x)",
    "s = f([1])\nassert type(s) is set\ns.add(2)\nassert s == {1, 2}",
    "def f(x): return frozenset(x)",
)
problem(
    "int and bool",
    "def f(x): return x > 1",
    "assert f(2) is True and type(f(2)) is bool",
    "def f(x): return int(x > 1)",
)
problem("float and int", "def f(x): return x / 1", "assert type(f(2)) is float and f(2) == 2", "def f(x): return x")
problem(
    "nan", "def f(): return float('nan')", "import math\nassert math.isnan(f()) and f() != f()", "def f(): return None"
)
problem(
    "slices and ellipsis",
    "class A:\n    def __getitem__(self, key): return key",
    "a = A()\nassert a[1:2] == slice(1, 2)\nassert a[..., 1] == (..., 1)",
    "class A:\n    def __getitem__(self, key): return 1",
)
problem(
    "views of a dict",
    "def f(): return {'a': 1}.keys()",
    "assert f() == {'a'}\nassert 'a' in f() and list(f()) == ['a']",
    "def f(): return ['a']",
)
problem(
    "items of a dict",
    "def f(): return {'a': 1}.items()",
    "assert sorted(f()) == [('a', 1)] and len(f()) == 1",
    "def f(): return {'a': 2}.items()",
)
problem(
    "a class that extends list",
    "class Stack(list):\n    def push(self, x): self.append(x)\n    def peek(self): return self[-1]",
    "s = Stack()\ns.push(1)\ns.push(2)\nassert s == [1, 2] and s.peek() == 2 and len(s) == 2 and isinstance(s, list)\ns.append(7)\nassert s.peek() == 7\nassert s[0] == 1 and 7 in s and bool(s)\nassert list(reversed(s)) == [7, 2, 1]",
    "class Stack(list):\n    def push(self, x): self.insert(0, x)\n    def peek(self): return self[-1]",
    "class Stack:\n    def __init__(self): self.x = []\n    def push(self, x): self.x.append(x)\n    def peek(self): return self.x[-1]\n    def append(self, x): self.x.append(x)\n    def __len__(self): return len(self.x)",
)
problem(
    "a class that extends dict",
    "class D(dict):\n    def __getattr__(self, k):\n        try: return self[k]\n        except KeyError: raise AttributeError(k)\n    def __setattr__(self, k, v): self[k] = v\n    def __missing__(self, k): return k * 2",
    "d = D(a=1)\nassert d.a == 1 and d == {'a': 1}\nd.b = 5\nassert d['b'] == 5\nassert d['q'] == 'qq'\nassert dict(d) == {'a': 1, 'b': 5}",
    "class D(dict): pass",
)
problem(
    "a class that extends list lies about its length",
    "def f(): return [1, 2]",
    "assert len(f()) == 2 and f() == [1, 2]",
    "class L(list):\n    def __len__(self): return 7\ndef f(): return L([1, 2])",
)
problem(
    "a class that extends int",
    "class Even(int):\n    def half(self): return self // 2",
    "e = Even(4)\nassert e == 4 and e.half() == 2 and e + 1 == 5 and isinstance(e, int)",
    "class Even(int):\n    def half(self): return self",
)
problem(
    "a class that extends str",
    "class Name(str):\n    def shout(self): return self.upper() + '!'",
    "n = Name('ab')\nassert n == 'ab' and n.shout() == 'AB!' and n[0] == 'a' and f'{n}' == 'ab'",
    "class Name(str):\n    def shout(self): return self",
)
problem(
    "a class that extends tuple",
    "class V(tuple):\n    def __new__(cls, *x): return super().__new__(cls, x)\n    def __add__(self, o): return V(*(a + b for a, b in zip(self, o)))",
    "assert V(1, 2) + V(3, 4) == V(4, 6)\nassert V(1, 2) + (1, 1) == (2, 3)\nassert isinstance(V(1) + V(2), V)",
    "class V(tuple):\n    def __new__(cls, *x): return super().__new__(cls, x)",
)
problem(
    "a cycle",
    "def f():\n    x = [1]\n    x.append(x)\n    return x",
    "x = f()\nassert x[0] == 1 and x[1] is x and x[1][1][0] == 1",
    "def f():\n    x = [1]\n    x.append([1, 2])\n    return x",
)
problem(
    "a cyclic argument",
    "def f(d):\n    return d['self'] is d",
    "d = {}\nd['self'] = d\nassert f(d) is True",
    "def f(d): return False",
)
problem(
    "a million elements",
    "def f(n): return list(range(n))",
    "x = f(10**6)\nassert len(x) == 10**6 and x[-1] == 10**6 - 1 and sum(x) == 499999500000",
    "def f(n): return list(range(n - 1))",
)
problem(
    "a million elements given",
    "def f(x): return sum(x)",
    "assert f(list(range(10**6))) == 499999500000",
    "def f(x): return len(x)",
)
problem(
    "2 MB of text",
    "def f(n): return 'ab' * n",
    "assert len(f(10**6)) == 2 * 10**6 and f(10**6).count('a') == 10**6",
    "def f(n): return 'aa' * n",
)
problem(
    "nested deeply",
    "def f(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x",
    "x = f(300)\nn = 0\nwhile x:\n    x, n = x[0], n + 1\nassert n == 300",
    "def f(n): return [[]]",
)

# Objects of the program

VEC = """
class Vec:
    def __init__(self, x, y): self.x, self.y = x, y
    def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
    def __hash__(self): return hash((self.x, self.y))
    def __add__(self, o): return Vec(self.x + o.x, self.y + o.y)
    def __sub__(self, o): return Vec(self.x - o.x, self.y - o.y)
    def __mul__(self, k): return Vec(self.x * k, self.y * k)
    __rmul__ = __mul__
    def __matmul__(self, o): return self.x * o.x + self.y * o.y
    def __neg__(self): return Vec(-self.x, -self.y)
    def __abs__(self): return (self.x ** 2 + self.y ** 2) ** .5
    def __bool__(self): return bool(self.x or self.y)
    def __lt__(self, o): return abs(self) < abs(o)
    def __len__(self): return 2
    def __getitem__(self, i): return (self.x, self.y)[i]
    def __iter__(self): return iter((self.x, self.y))
    def __contains__(self, v): return v in (self.x, self.y)
    def __repr__(self): return f'Vec({self.x}, {self.y})'
    def __str__(self): return f'<{self.x},{self.y}>'
    def __call__(self, k): return self * k
    def __iadd__(self, o):
        self.x += o.x
        return self
"""


def vec(name: str, test: str, old: str, new: str) -> None:
    """A problem about `Vec`, and a change that makes it wrong."""
    assert old in VEC
    problem(f"operators: {name}", VEC, test, VEC.replace(old, new))


vec("equality", "assert Vec(1, 2) == Vec(1, 2)\nassert Vec(1, 2) != Vec(2, 2)", "(o.x, o.y)", "(o.x, o.x)")
vec(
    "inequality",
    "assert Vec(1, 2) != Vec(1, 3)\nassert not Vec(1, 2) != Vec(1, 2)",
    "isinstance(o, Vec) and",
    "True or",
)
vec(
    "equality with others",
    "assert Vec(1, 2) != (1, 2)\nassert not Vec(1, 2) == None",
    "def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)",
    "def __eq__(self, o): return True",
)
vec("sum", "assert Vec(1, 2) + Vec(3, 4) == Vec(4, 6)", "self.y + o.y", "self.y - o.y")
vec("difference", "v = Vec(1, 2) - Vec(1, 1)\nassert (v.x, v.y) == (0, 1)", "self.y - o.y", "self.y + o.y")
vec("times", "assert Vec(1, 2) * 3 == Vec(3, 6) == 3 * Vec(1, 2)", "__rmul__ = __mul__", "")
vec("product", "assert Vec(1, 2) @ Vec(3, 4) == 11", "self.x * o.x +", "self.x * o.x -")
vec("negative", "assert -Vec(1, 2) == Vec(-1, -2)", "Vec(-self.x, -self.y)", "self")
vec("abs", "assert abs(Vec(3, 4)) == 5.0\nassert abs(abs(Vec(3, 4)) - 5) < 1e-9", "** .5", "** .4")
vec("bool", "assert Vec(1, 0)\nassert not Vec(0, 0)", "self.x or self.y", "True")
vec(
    "order",
    "assert Vec(1, 1) < Vec(2, 2)\nassert sorted([Vec(2, 2), Vec(0, 1)])[0] == Vec(0, 1)\nassert Vec(2, 2) > Vec(1, 1)\nassert max(Vec(1, 1), Vec(3, 3)) == Vec(3, 3)",
    "abs(self) < abs(o)",
    "abs(self) > abs(o)",
)
vec("len", "assert len(Vec(1, 2)) == 2", "return 2", "return 3")
vec(
    "items",
    "v = Vec(5, 6)\nassert v[0] == 5 and v[1] == 6\ntry:\n    v[2]\nexcept IndexError:\n    pass\nelse:\n    assert False",
    "(self.x, self.y)[i]",
    "(self.x, self.y)[0]",
)
vec(
    "iteration",
    "assert list(Vec(5, 6)) == [5, 6]\nx, y = Vec(7, 8)\nassert (x, y) == (7, 8)\nassert [*Vec(1, 2)] == [1, 2]",
    "iter((self.x, self.y))",
    "iter((self.y, self.x))",
)
vec("in", "assert 1 in Vec(1, 2)\nassert 5 not in Vec(1, 2)", "return v in (self.x, self.y)", "return True")
vec(
    "repr",
    "assert repr(Vec(1, 2)) == 'Vec(1, 2)'\nassert repr([Vec(1, 2)]) == '[Vec(1, 2)]'",
    "f'Vec({self.x}, {self.y})'",
    "'Vec'",
)
vec("str", "assert str(Vec(1, 2)) == '<1,2>'\nassert f'{Vec(1, 2)}' == '<1,2>'", "f'<{self.x},{self.y}>'", "'Vec'")
vec("call", "assert Vec(1, 2)(3) == Vec(3, 6)\nassert callable(Vec(1, 2))", "def __call__", "def called")
vec(
    "hash",
    "assert len({Vec(1, 2), Vec(1, 2), Vec(2, 1)}) == 2\nassert {Vec(1, 2): 'a'}[Vec(1, 2)] == 'a'",
    "hash((self.x, self.y))",
    "id(self)",
)
vec("in place", "v = Vec(1, 2)\nw = v\nv += Vec(5, 0)\nassert w.x == 6 and w is v", "self.x += o.x", "self.x -= o.x")
vec(
    "in a list",
    "assert [Vec(1, 2), Vec(0, 0)] == [Vec(1, 2), Vec(0, 0)]\nassert Vec(1, 2) in [Vec(0, 0), Vec(1, 2)]\nassert [Vec(1, 1)].index(Vec(1, 1)) == 0",
    "(o.x, o.y)",
    "(o.x, -1)",
)
vec(
    "sum of many",
    "from functools import reduce\nassert sum([Vec(1, 2), Vec(3, 4)], Vec(0, 0)) == Vec(4, 6)",
    "self.y + o.y",
    "self.y",
)

problem(
    "data class",
    "from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    x: int\n    y: int = 0",
    "assert P(1) == P(1, 0) and P(1) != P(2) and P(1) < P(2)\nassert repr(P(1)) == 'P(x=1, y=0)'\nassert P(3).y == 0",
    "class P:\n    def __init__(self, x, y=0): self.x, self.y = x, y",
    right=(
        "from functools import total_ordering\n@total_ordering\nclass P:\n    def __init__(self, x, y=0): self.x, self.y = x, y\n    def __eq__(self, o): return (self.x, self.y) == (o.x, o.y)\n    def __lt__(self, o): return (self.x, self.y) < (o.x, o.y)\n    def __repr__(self): return f'P(x={self.x}, y={self.y})'",
    ),
)
problem(
    "data class, unhashable",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
    "try:\n    hash(P(1))\nexcept TypeError:\n    pass\nelse:\n    assert False",
    "class P:\n    def __init__(self, x): self.x = x",
)
problem(
    "frozen data class",
    "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    x: int",
    "p = P(1)\ntry:\n    p.x = 2\n    assert False, 'changed'\nexcept AttributeError:\n    pass\nassert p.x == 1 and hash(p) == hash(P(1))",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
    judged=True,
)
problem(
    "money",
    "class Money:\n    def __init__(self, n): self.n = n\n    def __eq__(self, o): return self.n == getattr(o, 'n', o)\n    def __add__(self, o): return Money(self.n + getattr(o, 'n', o))",
    "assert Money(5) == 5\nassert Money(2) + 3 == 5\nassert Money(2) != 5",
    "class Money:\n    def __init__(self, n): self.n = n\n    def __eq__(self, o): return self.n == getattr(o, 'n', o) + 1\n    def __add__(self, o): return Money(self.n + getattr(o, 'n', o))",
)
problem(
    "money from a function",
    "class Money:\n    def __init__(self, n): self.n = n\n    def __eq__(self, o): return self.n == getattr(o, 'n', o)\ndef pay(): return Money(5)",
    "assert pay() == 5",
    judged=False,
)
problem(
    "identity without __eq__",
    "class A: pass\ndef f(): return A()",
    "a = f()\nassert a == a and a != f() and a in [a] and f() not in [a]",
    "class A: pass\nx = A()\ndef f(): return x",
)
problem(
    "truth of an object",
    "import re\ndef f(s): return re.match(r'a+$', s)",
    "assert f('aa')\nassert not f('ab')",
    "import re\ndef f(s): return re.match(r'a+', s)",
)
problem(
    "truth of an object in a driver",
    "import re\ndef f(s): return re.match(r'(a+)$', s)",
    "m = f('aa')\nassert m and m.group(1) == 'aa' and m.span() == (0, 2)\nassert f('b') is None",
    "import re\ndef f(s): return re.search(r'(a)', s)",
)
problem(
    "own isinstance",
    "class A: pass\nclass B(A): pass",
    "assert isinstance(B(), A) and isinstance(B(), B) and not isinstance(A(), B)\nassert issubclass(B, A) and type(B()) is B and type(B()) is not A\nassert B.__name__ == 'B' and B().__class__ is B",
    "class A: pass\nclass B: pass",
)
problem(
    "isinstance of builtins",
    "def f(x): return [x]",
    "assert isinstance(f(1), list)\nassert not isinstance(f(1), tuple)",
    "def f(x): return (x,)",
)
problem(
    "isinstance Iterable",
    "def f(): return [1]",
    "from collections.abc import Iterable\nassert isinstance(f(), Iterable)",
    "class A: pass\ndef f(): return A()",
)
problem(
    "isinstance Iterator",
    "def f(): return (x for x in [1, 2])",
    "from collections.abc import Iterator\nimport types\ng = f()\nassert isinstance(g, Iterator) and isinstance(g, types.GeneratorType)\nassert next(g) == 1 and list(g) == [2]\nassert next(g, None) is None",
    "def f(): return [1, 2]",
)
problem(
    "callable",
    "def f(): return lambda x: x + 1",
    "assert callable(f()) and f()(1) == 2",
    "class A: pass\ndef f(): return A()",
    "def f(): return 2",
)
problem("callable, of the program", "def f(x): return x", "assert callable(f)", "f = 3")
problem("not callable", "class A:\n    x = 1", "assert not callable(A())", "class A:\n    def __call__(self): pass")
problem(
    "hasattr",
    "class A:\n    def __init__(self): self.x = 1\n    def run(self): pass",
    "a = A()\nassert hasattr(a, 'x') and hasattr(a, 'run') and not hasattr(a, 'y')\nassert hasattr(A, 'run')\nassert getattr(a, 'y', 7) == 7",
    "class A:\n    def __init__(self): self.y = 1\n    def run(self): pass",
)
problem(
    "hasattr of special names",
    "class A:\n    def __iter__(self): return iter([1])",
    "assert hasattr(A(), '__iter__') and not hasattr(A(), '__len__')",
    "class A:\n    def __len__(self): return 1",
)
problem(
    "attributes set from outside",
    "class A:\n    def __init__(self): self.x = 1\n    def twice(self): return self.x * 2",
    "a = A()\na.x = 5\nassert a.twice() == 10\ndel a.x\nassert not hasattr(a, 'x')",
    "class A:\n    def __init__(self): self.x = 1\n    def twice(self): return 2",
)
problem(
    "properties",
    "class C:\n    def __init__(self): self._t = 0\n    @property\n    def t(self): return self._t\n    @t.setter\n    def t(self, v):\n        if v < 0: raise ValueError('below')\n        self._t = v",
    "c = C()\nc.t = 5\nassert c.t == 5\ntry:\n    c.t = -1\nexcept ValueError as e:\n    assert str(e) == 'below'\nelse:\n    assert False",
    "class C:\n    t = 0",
)
problem(
    "static and class methods",
    "class A:\n    n = 0\n    @classmethod\n    def make(cls): cls.n += 1; return cls()\n    @staticmethod\n    def add(a, b): return a + b",
    "assert A.add(1, 2) == 3\nassert isinstance(A.make(), A) and A.n == 1\nA.n = 5\nassert A.make().n == 6",
    "class A:\n    n = 0\n    @classmethod\n    def make(cls): return cls()\n    @staticmethod\n    def add(a, b): return a + b",
)
problem(
    "vars and dir",
    "class A:\n    def __init__(self): self.x, self.y = 1, [2]",
    "assert vars(A()) == {'x': 1, 'y': [2]}\nassert A().__dict__ == {'x': 1, 'y': [2]}\nassert 'x' in dir(A())",
    "class A:\n    def __init__(self): self.x = 1",
)
problem(
    "__doc__ and __name__",
    "def f(x):\n    'Doubles.'\n    return 2 * x",
    "assert f.__doc__ == 'Doubles.' and f.__name__ == 'f'",
    "def f(x): return 2 * x",
)
problem(
    "a decorator",
    "import functools\ndef twice(g):\n    @functools.wraps(g)\n    def inner(*a, **k): return g(*a, **k) * 2\n    return inner",
    "@twice\ndef h(x, y=1):\n    return x + y\nassert h(1) == 4 and h(1, y=2) == 6 and h.__name__ == 'h'",
    "def twice(g):\n    def inner(*a): return g(*a) * 2\n    return inner",
    "def twice(g): return g",
)
problem(
    "a function handed over",
    "def apply(g, xs): return [g(x) for x in xs]",
    "assert apply(lambda x: x + 1, [1, 2]) == [2, 3]\nassert apply(str, [1]) == ['1']\nseen = []\napply(seen.append, [1, 2])\nassert seen == [1, 2]",
    "def apply(g, xs): return xs",
)
problem(
    "a function that raises, handed over",
    "def safe(g):\n    try: return g()\n    except ValueError as e: return str(e)",
    "def bad(): raise ValueError('x')\nassert safe(bad) == 'x'\ndef worse(): raise KeyError('y')\ntry:\n    safe(worse)\nexcept KeyError:\n    pass\nelse:\n    assert False",
    "def safe(g):\n    try: return g()\n    except Exception as e: return str(e)",
)
problem(
    "a key function",
    "def top(xs, key): return max(xs, key=key)",
    "assert top(['a', 'bbb', 'cc'], len) == 'bbb'\nassert top([1, -5], key=lambda x: -x) == -5",
    "def top(xs, key): return max(xs)",
)
problem(
    "a cache of calls",
    "def memo(g):\n    seen = {}\n    def inner(x):\n        if x not in seen: seen[x] = g(x)\n        return seen[x]\n    return inner",
    "calls = []\n@memo\ndef sq(x):\n    calls.append(x)\n    return x * x\nassert sq(3) == 9 and sq(3) == 9 and calls == [3]",
    "def memo(g): return g",
)
problem(
    "an iterator handed over",
    "def take(it, n): return [next(it) for _ in range(n)]",
    "it = iter([1, 2, 3])\nassert take(it, 2) == [1, 2]\nassert next(it) == 3\nassert take((x * x for x in range(9)), 3) == [0, 1, 4]",
    "def take(it, n): return list(it)[:n]",
)
problem(
    "functions of the library handed over",
    "def fold(g, xs):\n    r = xs[0]\n    for x in xs[1:]: r = g(r, x)\n    return r",
    "import operator, math\nassert fold(operator.add, [1, 2, 3]) == 6\nassert fold(math.gcd, [12, 18]) == 6\nassert fold(max, [1, 5, 2]) == 5",
    "def fold(g, xs): return sum(xs)",
)
problem(
    "context manager",
    "class Log:\n    def __init__(self): self.events = []\n    def __enter__(self):\n        self.events.append('in')\n        return self\n    def __exit__(self, kind, value, tb):\n        self.events.append(kind.__name__ if kind else 'out')\n        return kind is ValueError",
    "log = Log()\nwith log as same_log:\n    assert same_log is log\nwith log:\n    raise ValueError('x')\nassert log.events == ['in', 'out', 'in', 'ValueError']\ntry:\n    with log:\n        raise KeyError('y')\nexcept KeyError:\n    pass\nelse:\n    assert False",
    "class Log:\n    events = ['in', 'out', 'in', 'ValueError']\n    def __enter__(self): return self\n    def __exit__(self, *a): return True",
)
problem(
    "contextlib",
    "from contextlib import contextmanager\n@contextmanager\ndef tag(out, name):\n    out.append(f'<{name}>')\n    try: yield name\n    finally: out.append(f'</{name}>')",
    "out = []\nwith tag(out, 'b') as n:\n    assert n == 'b'\n    out.append('x')\nassert out == ['<b>', 'x', '</b>']",
    "from contextlib import contextmanager\n@contextmanager\ndef tag(out, name):\n    out.append(f'<{name}>')\n    yield name",
)
problem(
    "iterator class",
    "class Count:\n    def __init__(self, n): self.n = n\n    def __iter__(self): return self\n    def __next__(self):\n        if self.n == 0: raise StopIteration\n        self.n -= 1\n        return self.n",
    "assert list(Count(3)) == [2, 1, 0]\nc = Count(1)\nassert next(c) == 0\ntry:\n    next(c)\nexcept StopIteration:\n    pass\nelse:\n    assert False\nassert sum(Count(4)) == 6",
    "class Count:\n    def __init__(self, n): self.n = n\n    def __iter__(self): return iter(range(self.n - 1))\n    def __next__(self): return 0",
)
problem(
    "generator send",
    "def acc():\n    t = 0\n    while True:\n        x = yield t\n        t += x",
    "g = acc()\nassert next(g) == 0 and g.send(5) == 5 and g.send(2) == 7\ng.close()",
    "def acc():\n    while True: yield 0",
)
problem(
    "abstract class",
    "from abc import ABC, abstractmethod\nclass Shape(ABC):\n    @abstractmethod\n    def area(self): ...\nclass Sq(Shape):\n    def __init__(self, a): self.a = a\n    def area(self): return self.a ** 2",
    "assert Sq(3).area() == 9 and isinstance(Sq(1), Shape)\ntry:\n    Shape()\nexcept TypeError:\n    pass\nelse:\n    assert False",
    "class Shape: pass\nclass Sq(Shape):\n    def __init__(self, a): self.a = a\n    def area(self): return self.a ** 2",
)
problem(
    "linked nodes",
    "class Node:\n    def __init__(self, v, next=None): self.v, self.next = v, next\ndef rev(n):\n    out = None\n    while n: n.next, out, n = out, n, n.next\n    return out",
    "a = Node(1, Node(2, Node(3)))\nb = a.next.next\nr = rev(a)\nassert r is b and r.next.v == 2 and r.next.next is a and a.next is None",
    "class Node:\n    def __init__(self, v, next=None): self.v, self.next = v, next\ndef rev(n): return n",
)
problem(
    "copies of objects",
    "class A:\n    def __init__(self): self.x = [1]",
    "import copy\na = A()\nb = copy.deepcopy(a)\nc = copy.copy(a)\na.x.append(2)\nassert b.x == [1] and c.x == [1, 2] and c.x is a.x and b is not a",
    "class A:\n    x = [1]\n    def __deepcopy__(self, m): return self",
)
problem(
    "a singleton",
    "class S:\n    one = None\n    def __new__(cls):\n        if cls.one is None: cls.one = super().__new__(cls)\n        return cls.one",
    "assert S() is S()",
    "class S: pass",
)
problem(
    "a global of the program",
    "N = 0\nLOG = []\ndef f():\n    global N\n    N += 1\n    LOG.append(N)",
    "f()\nf()\nassert N == 2 and LOG == [1, 2]",
    "N = 2\nLOG = []\ndef f(): LOG.append(1)",
)
problem(
    "a constant of the program",
    "PI = 3.14\ndef f(): return PI",
    "assert abs(PI - f()) < 1e-9 and PI == 3.14",
    "PI = 3\ndef f(): return PI",
)
problem("equal tuples are one", "def f(t): return t", "t = (1, 2)\nassert f(t) is t", judged=False)
problem("not the same text", "def f(s): return s + 'b'", "s = 'a'\nassert f(s) is not s")

# Exceptions

problem(
    "attributes of an exception",
    "class MyError(Exception):\n    def __init__(self, code, msg):\n        super().__init__(msg)\n        self.code = code\ndef f(): raise MyError(5, 'no')",
    "try:\n    f()\nexcept MyError as e:\n    assert e.code == 5 and str(e) == 'no' and isinstance(e, Exception) and e.args == ('no',)\nelse:\n    assert False",
    "class MyError(Exception):\n    code = 6\ndef f(): raise MyError('no')",
    "class MyError(Exception): pass\ndef f(): raise ValueError('no')",
)
problem(
    "a family of exceptions",
    "class Base(ValueError): pass\nclass Sub(Base): pass\ndef f(): raise Sub('x')",
    "for kind in (Sub, Base, ValueError, Exception):\n    try:\n        f()\n    except kind as e:\n        assert type(e) is Sub and str(e) == 'x'\n    else:\n        assert False\nassert issubclass(Sub, ValueError)",
    "class Base(Exception): pass\nclass Sub(Base): pass\ndef f(): raise Sub('x')",
)
problem(
    "an exception's text",
    "class E(Exception):\n    def __str__(self): return 'own'\ndef f(): raise E(1)",
    "try:\n    f()\nexcept E as e:\n    assert str(e) == 'own' and e.args == (1,)",
    "class E(Exception): pass\ndef f(): raise E(1)",
)
problem(
    "KeyError",
    "def f(d): return d['x']",
    "try:\n    f({})\nexcept KeyError as e:\n    assert e.args == ('x',) and str(e) == \"'x'\"\nelse:\n    assert False",
    "def f(d): raise KeyError('y')",
)
problem(
    "OSError",
    "def f(): raise FileNotFoundError(2, 'No', 'x')",
    "try:\n    f()\nexcept OSError as e:\n    assert e.errno == 2 and e.filename == 'x' and isinstance(e, FileNotFoundError)",
    "def f(): raise OSError('x')",
)
problem(
    "an exception of the library",
    "import json\ndef f(s): return json.loads(s)",
    "import json\ntry:\n    f('{')\nexcept json.JSONDecodeError as e:\n    assert e.pos == 1\nelse:\n    assert False",
    "def f(s): raise ValueError(s)",
)
problem(
    "a cause",
    "def f():\n    try: {}['a']\n    except KeyError as e: raise ValueError('b') from e",
    "try:\n    f()\nexcept ValueError as e:\n    assert isinstance(e.__cause__, KeyError)",
    "def f(): raise ValueError('b')",
)
problem(
    "SystemExit",
    "import sys\ndef f(n): sys.exit(n)",
    "try:\n    f(3)\nexcept SystemExit as e:\n    assert e.code == 3\nelse:\n    assert False",
    "def f(n): raise RuntimeError(n)",
    "import sys\ndef f(n): sys.exit(1)",
    "import os\ndef f(n): os._exit(n)",
)
problem(
    "with unittest",
    "class E(Exception): pass\ndef f(x):\n    if x < 0: raise E('below zero')\n    return x",
    "import unittest\nt = unittest.TestCase()\nwith t.assertRaises(E) as found:\n    f(-1)\nt.assertIn('below', str(found.exception))\nt.assertRaisesRegex(E, 'zero', f, -2)\nt.assertEqual(f(1), 1)\nassert True and f(2) == 2",
    "class E(Exception): pass\ndef f(x): return x",
)
problem(
    "StopIteration from a function",
    "def f(): raise StopIteration('x')",
    "try:\n    f()\nexcept StopIteration:\n    pass\nelse:\n    assert False",
    judged=False,
)
problem(
    "AssertionError",
    "def f(x): assert x > 0, 'positive'",
    "try:\n    f(-1)\nexcept AssertionError as e:\n    assert str(e) == 'positive'\nelse:\n    raise SystemError",
    "def f(x): pass",
)

# Output, coroutines, files and others

problem(
    "captured output",
    "def f(n): print('n =', n)",
    "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(3)\nassert out.getvalue() == 'n = 3\\n'",
    "def f(n): print('n=', n)",
    "def f(n): return 'n = 3\\n'",
)
problem(
    "captured errors",
    "import sys\ndef f(): print('bad', file=sys.stderr)",
    "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stderr(out):\n    f()\nassert out.getvalue() == 'bad\\n'",
    "def f(): print('bad')",
)
problem(
    "output by sys.stdout",
    "import sys\ndef f():\n    sys.stdout.write('a')\n    sys.stdout.flush()\n    print('b', end='')",
    "import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\ntry:\n    f()\n    text = sys.stdout.getvalue()\nfinally:\n    sys.stdout = old\nassert text == 'ab'",
    "def f(): print('b')",
)
problem(
    "output in a callback's order",
    "def f(g):\n    print('a')\n    g()\n    print('c')",
    "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(lambda: print('b'))\nassert out.getvalue() == 'a\\nb\\nc\\n'",
    "def f(g):\n    g()\n    print('a')\n    print('c')",
)
problem(
    "a coroutine",
    "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x + 1",
    "import asyncio\nassert asyncio.run(f(1)) == 2",
    "async def f(x): return x",
    "def f(x): return x + 1",
)
problem(
    "coroutines awaited",
    "import asyncio\nasync def f(x):\n    if x < 0: raise ValueError('x')\n    return x + 1\nclass R:\n    async def __aenter__(self): return self\n    async def __aexit__(self, *a): self.done = True\nasync def gen():\n    for i in range(3): yield i",
    "import asyncio\nasync def main():\n    assert await f(1) == 2\n    try:\n        await f(-1)\n    except ValueError:\n        pass\n    else:\n        assert False\n    r = R()\n    async with r as same_r:\n        assert same_r is r\n    assert r.done\n    assert [i async for i in gen()] == [0, 1, 2]\nasyncio.run(main())",
    "import asyncio\nasync def f(x): return x + 1\nclass R: pass\nasync def gen(): yield 1",
)
problem(
    "is a coroutine function",
    "async def f(): pass",
    "import asyncio, inspect\nassert asyncio.iscoroutinefunction(f) and inspect.iscoroutinefunction(f)\nassert asyncio.run(f()) is None",
    "def f(): pass",
)
problem(
    "coroutines side by side",
    "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x",
    "import asyncio\nasync def main(): return await asyncio.gather(f(1), f(2))\nassert asyncio.run(main()) == [1, 2]",
    judged=False,
)
problem(
    "a file that the test wrote",
    "def f(path): return open(path).read()",
    "with open('x.txt', 'w') as file:\n    file.write('hi')\nassert f('x.txt') == 'hi'",
    judged=False,
)
problem(
    "a file that the program wrote",
    "def f(path):\n    with open(path, 'w') as file: file.write('hi')",
    "f('y.txt')\nassert open('y.txt').read() == 'hi'",
    judged=False,
)
problem(
    "a temporary folder",
    "import os\ndef f(path): return os.listdir(path)",
    "import tempfile\nwith tempfile.TemporaryDirectory() as folder:\n    assert f(folder) == []",
    judged=False,
)
problem(
    "does a file exist",
    "def f(): open('z.txt', 'w').close()",
    "import os\nf()\nassert os.path.exists('z.txt')",
    judged=False,
)
problem(
    "text files in memory",
    "def f(file): return file.read()",
    "import io\nassert f(io.StringIO('abc')) == 'abc'",
    judged=False,
)
problem(
    "patched input",
    "def f(): return input()",
    "from unittest import mock\nwith mock.patch('builtins.input', return_value='5'):\n    assert f() == '5'",
    judged=False,
)
problem(
    "standard input replaced",
    "def f(): return input()",
    "import io, sys\nsys.stdin = io.StringIO('7\\n')\nassert f() == '7'",
    judged=False,
)
problem(
    "a seed",
    "import random\ndef f(): return random.random()",
    "import random\nrandom.seed(1)\na = f()\nrandom.seed(1)\nassert f() == a\nassert f() != a",
    "import random\ndef f(): return random.SystemRandom().random()",
)
problem("an object of the tests", "def f(o): return o.x", "class O:\n    x = 5\nassert f(O()) == 5", judged=False)
problem(
    "a class of the tests derived",
    "class A:\n    def run(self): return self.go()",
    "class B(A):\n    def go(self): return 3\nassert B().run() == 3",
    judged=False,
)
problem(
    "fields of a data class",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
    "from dataclasses import asdict\nassert asdict(P(1)) == {'x': 1}",
    judged=False,
)
problem(
    "environment",
    "import os\ndef f(): return os.environ['ABC']",
    "import os\nos.environ['ABC'] = '1'\nassert f() == '1'",
    judged=False,
)
problem(
    "the recursion limit",
    "def f(n): return n and f(n - 1)",
    "import sys\nsys.setrecursionlimit(5000)\nassert f(3000) == 0",
    "def f(n): return f(n + 1)",
)
problem(
    "source of a function",
    "def f(): return 1",
    "import inspect\nassert 'return 1' in inspect.getsource(f)",
    judged=False,
)
problem(
    "signature",
    "def f(a, b=2, *, c): return a",
    "import inspect\nassert list(inspect.signature(f).parameters) == ['a', 'b', 'c']",
    "def f(a, b=2): return a",
)

# Plain tests, as they always were

problem(
    "not equal",
    "def f(x): return x + 1",
    "assert f(1) != 1\nassert f(1) != 3",
    "def f(x): return x",
    "def f(x): return 3 * x",
)
problem(
    "not equal, by an object",
    "def f(x): return x + 1",
    "assert f(1) != 2 or f(1) == 2\nassert not (f(1) != 2)",
    "class A:\n    def __ne__(self, o): return False\nclass B(A):\n    pass\ndef f(x): return 5",
)
problem(
    "loops over cases",
    "def f(x): return x * 2",
    "for x, y in [(1, 2), (2, 4), ('a', 'aa')]:\n    assert f(x) == y, x",
    "def f(x): return x * 3",
)
problem(
    "nearly",
    "def f(x): return x / 3",
    "import math\nfor x in (1, 2):\n    assert math.isclose(f(x), x / 3)\n    assert abs(f(x) - x / 3) < 1e-9",
    "def f(x): return round(x / 3, 3)",
)
problem(
    "setup of many calls",
    "def f(x): return [x]",
    "xs = [f(i) for i in range(300)]\nassert [x[0] for x in xs] == list(range(300))",
    "def f(x): return [x + 1]",
)
problem(
    "chained comparisons",
    "def f(x): return x",
    "assert 1 < f(2) < 3 and f(2) in (1, 2) and f('b') in 'abc'",
    "def f(x): return 1",
)
problem(
    "warnings",
    "import warnings\ndef f(): warnings.warn('old')",
    "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n    f()\nassert len(seen) == 1",
    judged=False,
)
problem(
    "logs",
    "import logging\ndef f(): logging.error('bad')",
    "import unittest\nwith unittest.TestCase().assertLogs() as seen:\n    f()\nassert len(seen.output) == 1",
    judged=False,
)
problem(
    "threads",
    "class C:\n    n = 0\n    def up(self): self.n += 1",
    "import threading\nc = C()\nts = [threading.Thread(target=c.up) for _ in range(5)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nassert c.n == 5",
    "class C:\n    n = 0\n    def up(self): self.n += 2",
)
problem(
    "threads that wait for each other",
    "import queue\nclass Q:\n    def __init__(self): self.q = queue.Queue()\n    def get(self): return self.q.get()\n    def put(self, x): self.q.put(x)",
    "import threading, time\nq, got = Q(), []\nt = threading.Thread(target=lambda: got.append(q.get()))\nt.start()\ntime.sleep(0.1)\nq.put(3)\nt.join()\nassert got == [3]",
    judged=False,
)
problem(
    "currying",
    "import inspect\ndef curry(g):\n    n = len(inspect.signature(g).parameters)\n    def inner(*a): return g(*a) if len(a) >= n else lambda *b: inner(*a, *b)\n    return inner",
    "assert curry(lambda a, b, c: a + b + c)(1)(2)(3) == 6\ndef add(a, b=1): return a + b\nassert curry(add)(1)(2) == 3",
    "def curry(g): return g",
    right=(
        "def curry(g):\n    n = g.__code__.co_argcount\n    def inner(*a): return g(*a) if len(a) >= n else lambda *b: inner(*a, *b)\n    return inner",
    ),
)
problem(
    "user dict",
    "from collections import UserDict\nclass D(UserDict):\n    def __setitem__(self, k, v): super().__setitem__(k.lower(), v)",
    "d = D()\nd['A'] = 1\nassert d['a'] == 1 and 'a' in d and len(d) == 1 and list(d) == ['a']\nassert d == {'a': 1}",
    "from collections import UserDict\nclass D(UserDict): pass",
)
problem(
    "no reference",
    "",
    "assert Point(1) == Point(1)",
    judged=False,
    right=("class Point:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x",),
)
problem(
    "an object from a method of an object",
    VEC,
    "v = (Vec(1, 2) + Vec(0, 1)) * 2\nassert [*v] == [2, 6]\nassert (-v) * 2 == Vec(-4, -12)",
    VEC.replace("self.y * k", "self.y + k"),
)
