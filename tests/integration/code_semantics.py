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
    first, second, *others = (dedent(text).strip() for text in (reference, test, *wrong, *right))
    PROBLEMS.append(Problem(name, first, second, tuple(others[: len(wrong)]), tuple(others[len(wrong) :]), judged))


problem(
    "sorts in place",
    "def f(x): x.sort()",
    r"""
    a = [3, 1, 2]
    assert f(a) is None
    assert a == [1, 2, 3]
    """,
    "def f(x): pass",
    "def f(x): x = sorted(x)",
    "def f(x): x.sort(); return x",
    right=("def f(x): x[:] = sorted(x)",),
)
problem(
    "must not change its argument",
    "def f(x): return sorted(x)",
    r"""
    a = [3, 1]
    assert f(a) == [1, 3]
    assert a == [3, 1]
    """,
    r"""
    def f(x):
        x.sort()
        return x
    """,
)
problem(
    "returns a copy",
    "def f(x): return list(x)",
    r"""
    a = [3, 1]
    b = f(a)
    assert b == a and b is not a
    """,
    "def f(x): return x",
)
problem(
    "returns its argument",
    r"""
    def f(x):
        x.append(1)
        return x
    """,
    r"""
    a = []
    assert f(a) is a
    assert a == [1]
    """,
    "def f(x): return x + [1]",
)
problem(
    "deep copy",
    r"""
    import copy
    def f(x): return copy.deepcopy(x)
    """,
    r"""
    a = [[1], {2: [3]}]
    b = f(a)
    b[0].append(9)
    b[1][2].append(9)
    assert a == [[1], {2: [3]}]
    assert b == [[1, 9], {2: [3, 9]}]
    """,
    "def f(x): return list(x)",
    "def f(x): return x",
)
problem(
    "changes a nested argument",
    r"""
    def f(grid):
        for row in grid: row.reverse()
    """,
    r"""
    g = [[1, 2], [3, 4]]
    row = g[0]
    f(g)
    assert g == [[2, 1], [4, 3]]
    assert row is g[0] and row == [2, 1]
    """,
    "def f(grid): grid[:] = [row[::-1] for row in grid]",
    "def f(grid): pass",
)
problem(
    "changes a dict",
    "def f(d, k): d.setdefault(k, []).append(1)",
    r"""
    d = {}
    f(d, 'a')
    f(d, 'a')
    assert d == {'a': [1, 1]}
    assert list(d) == ['a']
    """,
    "def f(d, k): d = {k: [1, 1]}",
    "def f(d, k): d[k] = [1]",
)
problem(
    "changes a set",
    "def f(s): s.discard(1)",
    r"""
    s = {1, 2}
    f(s)
    assert s == {2}
    """,
    "def f(s): return s - {1}",
)
problem(
    "changes a bytearray",
    "def f(b): b[0] = 65",
    r"""
    b = bytearray(b'xyz')
    f(b)
    assert b == bytearray(b'Ayz')
    assert isinstance(b, bytearray)
    """,
    "def f(b): return b'A' + b[1:]",
)
problem(
    "changes a deque",
    "def f(d): d.rotate(1)",
    r"""
    from collections import deque
    d = deque([1, 2, 3])
    f(d)
    assert d == deque([3, 1, 2])
    """,
    "def f(d): d.rotate(-1)",
)
problem(
    "keeps what it was given",
    r"""
    class Bag:
        def __init__(self, items): self.items = items
        def add(self, x): self.items.append(x)
    """,
    r"""
    a = [1]
    bag = Bag(a)
    bag.add(2)
    assert a == [1, 2]
    a.append(3)
    assert bag.items == [1, 2, 3]
    assert bag.items is a
    """,
    r"""
    class Bag:
        def __init__(self, items): self.items = list(items)
        def add(self, x): self.items.append(x)
    """,
)
problem(
    "keeps a copy of what it was given",
    r"""
    class Bag:
        def __init__(self, items): self.items = list(items)
        def count(self): return len(self.items)
    """,
    r"""
    a = [1]
    bag = Bag(a)
    a.append(2)
    assert bag.count() == 1
    """,
    r"""
    class Bag:
        def __init__(self, items): self.items = items
        def count(self): return len(self.items)
    """,
)
problem(
    "hands out a copy",
    r"""
    class Bag:
        def __init__(self): self._x = [1]
        def get(self): return self._x[:]
    """,
    r"""
    bag = Bag()
    bag.get().append(5)
    assert bag.get() == [1]
    """,
    r"""
    class Bag:
        def __init__(self): self._x = [1]
        def get(self): return self._x
    """,
)
problem(
    "no shared default",
    r"""
    def f(x, acc=None):
        acc = [] if acc is None else acc
        acc.append(x)
        return acc
    """,
    r"""
    a = f(1)
    b = f(2)
    assert a == [1]
    assert b == [2]
    assert a is not b
    """,
    r"""
    def f(x, acc=[]):
        acc.append(x)
        return acc
    """,
)
problem(
    "no shared rows",
    "def f(n): return [[0] * n for _ in range(n)]",
    r"""
    g = f(2)
    g[0][0] = 1
    assert g == [[1, 0], [0, 0]]
    """,
    "def f(n): return [[0] * n] * n",
)
problem(
    "a cached list",
    r"""
    from functools import cache
    @cache
    def f(n): return [n]
    """,
    r"""
    assert f(1) is f(1)
    assert f(1) is not f(2)
    """,
    "def f(n): return [n]",
)
problem(
    "two arguments that are one",
    "def f(a, b): return a is b",
    r"""
    x = []
    assert f(x, x) is True
    assert f(x, []) is False
    """,
    "def f(a, b): return a == b",
)
problem(
    "an argument's tuple of lists",
    "def f(t): t[0].append(1)",
    r"""
    t = ([], 2)
    f(t)
    assert t == ([1], 2)
    """,
    "def f(t): return ([1], 2)",
)
problem(
    "removes while a loop runs",
    r"""
    def f(x):
        while 0 in x: x.remove(0)
        return len(x)
    """,
    r"""
    for n in range(5):
        a = [0] * n + [1]
        assert f(a) == 1
        assert a == [1]
    """,
    r"""
    def f(x):
        for y in x:
            if y == 0: x.remove(y)
        return 1
    """,
)
problem(
    "decimal",
    r"""
    from decimal import Decimal
    def f(x): return Decimal(x) / 4
    """,
    r"""
    from decimal import Decimal
    assert f('1') == Decimal('0.25')
    assert isinstance(f('1'), Decimal)
    assert str(f('1')) == '0.25'
    """,
    "def f(x): return float(x) / 4",
    r"""
    from decimal import Decimal
    def f(x): return Decimal('0.250')
    """,
)
problem(
    "decimal as a number",
    r"""
    from decimal import Decimal
    def f(x): return Decimal(x)
    """,
    "assert f(2) == 2",
    "def f(x): return '2'",
)
problem(
    "fraction as a number",
    r"""
    from fractions import Fraction
    def f(x): return Fraction(x, 2)
    """,
    "assert f(1) == 0.5",
    r"""
    from fractions import Fraction
    def f(x): return Fraction(x, 3)
    """,
)
problem(
    "fraction",
    r"""
    from fractions import Fraction
    def f(a, b): return Fraction(a, b)
    """,
    r"""
    from fractions import Fraction
    assert f(2, 4) == Fraction(1, 2)
    assert f(2, 4).denominator == 2
    assert type(f(1, 2)) is Fraction
    """,
    "def f(a, b): return a / b",
)
problem(
    "date",
    r"""
    import datetime
    def f(y): return datetime.date(y, 1, 1)
    """,
    r"""
    from datetime import date, timedelta
    assert f(2024) == date(2024, 1, 1)
    assert f(2025) - f(2024) == timedelta(days=366)
    assert f(2024).isoformat() == '2024-01-01'
    """,
    r"""
    import datetime
    def f(y): return datetime.datetime(y, 1, 1)
    """,
    "def f(y): return f'{y}-01-01'",
)
problem(
    "datetime with a zone",
    r"""
    from datetime import *
    def f(): return datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    """,
    r"""
    from datetime import datetime, timezone, timedelta
    assert f() == datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    assert f().tzinfo is not None and f().utcoffset() == timedelta(0)
    """,
    r"""
    from datetime import *
    def f(): return datetime(2024, 1, 2, 3, 4, 5, 6)
    """,
)
problem(
    "a date as an argument",
    "def f(d): return d.weekday()",
    r"""
    import datetime
    assert f(datetime.date(2024, 1, 1)) == 0
    """,
    "def f(d): return 1",
)
problem(
    "deque",
    r"""
    from collections import deque
    def f(n): return deque(range(n), maxlen=3)
    """,
    r"""
    from collections import deque
    d = f(5)
    assert d == deque([2, 3, 4]) and d.maxlen == 3
    d.append(9)
    assert list(d) == [3, 4, 9]
    """,
    r"""
    from collections import deque
    def f(n): return deque([2, 3, 4])
    """,
    "def f(n): return [2, 3, 4]",
)
problem(
    "named tuple",
    r"""
    from collections import namedtuple
    Point = namedtuple('Point', 'x y')
    def f(): return Point(1, 2)
    """,
    r"""
    p = f()
    assert p.x == 1 and p.y == 2 and p == (1, 2)
    assert p._asdict() == {'x': 1, 'y': 2}
    assert isinstance(p, tuple)
    a, b = p
    assert (a, b) == (1, 2)
    assert repr(p) == 'Point(x=1, y=2)'
    assert p._replace(x=5) == Point(5, 2)
    """,
    r"""
    def f(): return (1, 2)
    Point = None
    """,
    r"""
    from collections import namedtuple
    Point = namedtuple('Point', 'y x')
    def f(): return Point(1, 2)
    """,
)
problem(
    "typed named tuple",
    r"""
    from typing import NamedTuple
    class P(NamedTuple):
        x: int
        y: int = 0
    """,
    r"""
    assert P(1) == P(1, 0) == (1, 0)
    assert P(3).y == 0
    assert sorted([P(2), P(1)])[0].x == 1
    assert P._fields == ('x', 'y')
    """,
    r"""
    class P:
        def __init__(self, x, y=0): self.x, self.y = x, y
    """,
)
problem(
    "enum",
    r"""
    from enum import Enum
    class Color(Enum):
        RED = 1
        BLUE = 2
    def f(n): return Color(n)
    """,
    r"""
    assert f(1) is Color.RED and f(2) == Color.BLUE and f(1) != Color.BLUE
    assert f(1).name == 'RED' and f(2).value == 2
    assert len(Color) == 2 and [c.name for c in Color] == ['RED', 'BLUE']
    assert Color['RED'] is f(1)
    assert {f(1): 'x'}[Color.RED] == 'x'
    assert isinstance(f(1), Color)
    assert f(1) in Color
    """,
    r"""
    from enum import Enum
    class Color(Enum):
        RED = 2
        BLUE = 1
    def f(n): return Color(n)
    """,
    r"""
    class Color:
        RED = 1
        BLUE = 2
    def f(n): return n
    """,
)
problem(
    "int enum",
    r"""
    from enum import IntEnum
    class Level(IntEnum):
        LOW = 1
        HIGH = 2
    def f(n): return Level.HIGH if n > 5 else Level.LOW
    """,
    r"""
    assert f(9) == 2 and f(9) is Level.HIGH and f(1) < f(9) and f(9).name == 'HIGH'
    assert f(9) + 1 == 3
    assert isinstance(f(9), int)
    assert [10, 20, 30][f(9)] == 30
    """,
    r"""
    def f(n): return 2 if n > 5 else 1
    class Level:
        LOW, HIGH = 1, 2
    """,
)
problem(
    "enum of the library",
    r"""
    from enum import Enum
    class C(Enum):
        A = 1
    """,
    r"""
    from enum import Enum
    assert issubclass(C, Enum) and isinstance(C.A, Enum)
    """,
    r"""
    class C:
        A = 1
    """,
)
problem(
    "defaultdict",
    r"""
    from collections import defaultdict
    def f(xs):
        d = defaultdict(list)
        for x in xs: d[len(x)].append(x)
        return d
    """,
    r"""
    d = f(['a', 'bb', 'c'])
    assert d == {1: ['a', 'c'], 2: ['bb']}
    assert d[9] == []
    from collections import defaultdict
    assert isinstance(d, defaultdict) and d.default_factory is list
    """,
    "def f(xs): return {1: ['a', 'c'], 2: ['bb']}",
)
problem(
    "defaultdict with a function of the program",
    r"""
    from collections import defaultdict
    def f(): return defaultdict(lambda: 7)
    """,
    "assert f()['x'] == 7",
    r"""
    from collections import defaultdict
    def f(): return defaultdict(lambda: 8)
    """,
)
problem(
    "ordered dict",
    r"""
    from collections import OrderedDict
    def f():
        d = OrderedDict(a=1, b=2)
        d.move_to_end('a')
        return d
    """,
    r"""
    from collections import OrderedDict
    assert f() == OrderedDict(b=2, a=1)
    assert f() != OrderedDict(a=1, b=2)
    assert list(f().items()) == [('b', 2), ('a', 1)]
    """,
    "def f(): return dict(a=1, b=2)",
)
problem(
    "counter",
    r"""
    from collections import Counter
    def f(s): return Counter(s)
    """,
    r"""
    c = f('hello')
    assert c['l'] == 2 and c['z'] == 0
    assert c.most_common(1) == [('l', 2)]
    assert c == {'h': 1, 'e': 1, 'l': 2, 'o': 1}
    """,
    "def f(s): return {c: s.count(c) for c in s}",
)
problem(
    "bytes and bytearray",
    "def f(x): return bytearray(x)",
    r"""
    assert isinstance(f(b'a'), bytearray)
    assert f(b'a') == b'a'
    """,
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
    r"""
    z = f(2)
    assert z == 2 + 1j and z.imag == 1.0 and abs(z * z.conjugate() - 5) < 1e-9
    """,
    "def f(x): return (x, 1)",
)
problem(
    "sets",
    "def f(x): return frozenset(x)",
    r"""
    assert f([1, 1]) == {1} and isinstance(f([1]), frozenset)
    assert {f([1]): 2}[frozenset([1])] == 2
    """,
    "def f(x): return set(x)",
)
problem(
    "a set's kind",
    "def f(x): return set(x)",
    r"""
    s = f([1])
    assert type(s) is set
    s.add(2)
    assert s == {1, 2}
    """,
    "def f(x): return frozenset(x)",
)
problem(
    "int and bool",
    "def f(x): return x > 1",
    "assert f(2) is True and type(f(2)) is bool",
    "def f(x): return int(x > 1)",
)
problem(
    "float and int",
    "def f(x): return x / 1",
    "assert type(f(2)) is float and f(2) == 2",
    "def f(x): return x",
)
problem(
    "nan",
    "def f(): return float('nan')",
    r"""
    import math
    assert math.isnan(f()) and f() != f()
    """,
    "def f(): return None",
)
problem(
    "slices and ellipsis",
    r"""
    class A:
        def __getitem__(self, key): return key
    """,
    r"""
    a = A()
    assert a[1:2] == slice(1, 2)
    assert a[..., 1] == (..., 1)
    """,
    r"""
    class A:
        def __getitem__(self, key): return 1
    """,
)
problem(
    "views of a dict",
    "def f(): return {'a': 1}.keys()",
    r"""
    assert f() == {'a'}
    assert 'a' in f() and list(f()) == ['a']
    """,
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
    r"""
    class Stack(list):
        def push(self, x): self.append(x)
        def peek(self): return self[-1]
    """,
    r"""
    s = Stack()
    s.push(1)
    s.push(2)
    assert s == [1, 2] and s.peek() == 2 and len(s) == 2 and isinstance(s, list)
    s.append(7)
    assert s.peek() == 7
    assert s[0] == 1 and 7 in s and bool(s)
    assert list(reversed(s)) == [7, 2, 1]
    """,
    r"""
    class Stack(list):
        def push(self, x): self.insert(0, x)
        def peek(self): return self[-1]
    """,
    r"""
    class Stack:
        def __init__(self): self.x = []
        def push(self, x): self.x.append(x)
        def peek(self): return self.x[-1]
        def append(self, x): self.x.append(x)
        def __len__(self): return len(self.x)
    """,
)
problem(
    "a class that extends dict",
    r"""
    class D(dict):
        def __getattr__(self, k):
            try: return self[k]
            except KeyError: raise AttributeError(k)
        def __setattr__(self, k, v): self[k] = v
        def __missing__(self, k): return k * 2
    """,
    r"""
    d = D(a=1)
    assert d.a == 1 and d == {'a': 1}
    d.b = 5
    assert d['b'] == 5
    assert d['q'] == 'qq'
    assert dict(d) == {'a': 1, 'b': 5}
    """,
    "class D(dict): pass",
)
problem(
    "a class that extends list lies about its length",
    "def f(): return [1, 2]",
    "assert len(f()) == 2 and f() == [1, 2]",
    r"""
    class L(list):
        def __len__(self): return 7
    def f(): return L([1, 2])
    """,
)
problem(
    "a class that extends int",
    r"""
    class Even(int):
        def half(self): return self // 2
    """,
    r"""
    e = Even(4)
    assert e == 4 and e.half() == 2 and e + 1 == 5 and isinstance(e, int)
    """,
    r"""
    class Even(int):
        def half(self): return self
    """,
)
problem(
    "a class that extends str",
    r"""
    class Name(str):
        def shout(self): return self.upper() + '!'
    """,
    r"""
    n = Name('ab')
    assert n == 'ab' and n.shout() == 'AB!' and n[0] == 'a' and f'{n}' == 'ab'
    """,
    r"""
    class Name(str):
        def shout(self): return self
    """,
)
problem(
    "a class that extends tuple",
    r"""
    class V(tuple):
        def __new__(cls, *x): return super().__new__(cls, x)
        def __add__(self, o): return V(*(a + b for a, b in zip(self, o)))
    """,
    r"""
    assert V(1, 2) + V(3, 4) == V(4, 6)
    assert V(1, 2) + (1, 1) == (2, 3)
    assert isinstance(V(1) + V(2), V)
    """,
    r"""
    class V(tuple):
        def __new__(cls, *x): return super().__new__(cls, x)
    """,
)
problem(
    "a cycle",
    r"""
    def f():
        x = [1]
        x.append(x)
        return x
    """,
    r"""
    x = f()
    assert x[0] == 1 and x[1] is x and x[1][1][0] == 1
    """,
    r"""
    def f():
        x = [1]
        x.append([1, 2])
        return x
    """,
)
problem(
    "a cyclic argument",
    r"""
    def f(d):
        return d['self'] is d
    """,
    r"""
    d = {}
    d['self'] = d
    assert f(d) is True
    """,
    "def f(d): return False",
)
problem(
    "a million elements",
    "def f(n): return list(range(n))",
    r"""
    x = f(10**6)
    assert len(x) == 10**6 and x[-1] == 10**6 - 1 and sum(x) == 499999500000
    """,
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
    r"""
    def f(n):
        x = []
        for _ in range(n): x = [x]
        return x
    """,
    r"""
    x = f(300)
    n = 0
    while x:
        x, n = x[0], n + 1
    assert n == 300
    """,
    "def f(n): return [[]]",
)
problem(
    "operators: equality",
    r"""
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
    """,
    r"""
    assert Vec(1, 2) == Vec(1, 2)
    assert Vec(1, 2) != Vec(2, 2)
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.x)
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
    """,
)
problem(
    "operators: inequality",
    r"""
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
    """,
    r"""
    assert Vec(1, 2) != Vec(1, 3)
    assert not Vec(1, 2) != Vec(1, 2)
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return True or (self.x, self.y) == (o.x, o.y)
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
    """,
)
problem(
    "operators: equality with others",
    r"""
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
    """,
    r"""
    assert Vec(1, 2) != (1, 2)
    assert not Vec(1, 2) == None
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return True
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
    """,
)
problem(
    "operators: sum",
    r"""
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
    """,
    "assert Vec(1, 2) + Vec(3, 4) == Vec(4, 6)",
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, o): return Vec(self.x + o.x, self.y - o.y)
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
    """,
)
problem(
    "operators: difference",
    r"""
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
    """,
    r"""
    v = Vec(1, 2) - Vec(1, 1)
    assert (v.x, v.y) == (0, 1)
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, o): return Vec(self.x + o.x, self.y + o.y)
        def __sub__(self, o): return Vec(self.x - o.x, self.y + o.y)
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
    """,
)
problem(
    "operators: times",
    r"""
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
    """,
    "assert Vec(1, 2) * 3 == Vec(3, 6) == 3 * Vec(1, 2)",
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, o): return Vec(self.x + o.x, self.y + o.y)
        def __sub__(self, o): return Vec(self.x - o.x, self.y - o.y)
        def __mul__(self, k): return Vec(self.x * k, self.y * k)

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
    """,
)
problem(
    "operators: product",
    r"""
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
    """,
    "assert Vec(1, 2) @ Vec(3, 4) == 11",
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, o): return Vec(self.x + o.x, self.y + o.y)
        def __sub__(self, o): return Vec(self.x - o.x, self.y - o.y)
        def __mul__(self, k): return Vec(self.x * k, self.y * k)
        __rmul__ = __mul__
        def __matmul__(self, o): return self.x * o.x - self.y * o.y
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
    """,
)
problem(
    "operators: negative",
    r"""
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
    """,
    "assert -Vec(1, 2) == Vec(-1, -2)",
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, o): return Vec(self.x + o.x, self.y + o.y)
        def __sub__(self, o): return Vec(self.x - o.x, self.y - o.y)
        def __mul__(self, k): return Vec(self.x * k, self.y * k)
        __rmul__ = __mul__
        def __matmul__(self, o): return self.x * o.x + self.y * o.y
        def __neg__(self): return self
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
    """,
)
problem(
    "operators: abs",
    r"""
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
    """,
    r"""
    assert abs(Vec(3, 4)) == 5.0
    assert abs(abs(Vec(3, 4)) - 5) < 1e-9
    """,
    r"""
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
        def __abs__(self): return (self.x ** 2 + self.y ** 2) ** .4
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
    """,
)
problem(
    "operators: bool",
    r"""
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
    """,
    r"""
    assert Vec(1, 0)
    assert not Vec(0, 0)
    """,
    r"""
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
        def __bool__(self): return bool(True)
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
    """,
)
problem(
    "operators: order",
    r"""
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
    """,
    r"""
    assert Vec(1, 1) < Vec(2, 2)
    assert sorted([Vec(2, 2), Vec(0, 1)])[0] == Vec(0, 1)
    assert Vec(2, 2) > Vec(1, 1)
    assert max(Vec(1, 1), Vec(3, 3)) == Vec(3, 3)
    """,
    r"""
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
        def __lt__(self, o): return abs(self) > abs(o)
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
    """,
)
problem(
    "operators: len",
    r"""
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
    """,
    "assert len(Vec(1, 2)) == 2",
    r"""
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
        def __len__(self): return 3
        def __getitem__(self, i): return (self.x, self.y)[i]
        def __iter__(self): return iter((self.x, self.y))
        def __contains__(self, v): return v in (self.x, self.y)
        def __repr__(self): return f'Vec({self.x}, {self.y})'
        def __str__(self): return f'<{self.x},{self.y}>'
        def __call__(self, k): return self * k
        def __iadd__(self, o):
            self.x += o.x
            return self
    """,
)
problem(
    "operators: items",
    r"""
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
    """,
    r"""
    v = Vec(5, 6)
    assert v[0] == 5 and v[1] == 6
    try:
        v[2]
    except IndexError:
        pass
    else:
        assert False
    """,
    r"""
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
        def __getitem__(self, i): return (self.x, self.y)[0]
        def __iter__(self): return iter((self.x, self.y))
        def __contains__(self, v): return v in (self.x, self.y)
        def __repr__(self): return f'Vec({self.x}, {self.y})'
        def __str__(self): return f'<{self.x},{self.y}>'
        def __call__(self, k): return self * k
        def __iadd__(self, o):
            self.x += o.x
            return self
    """,
)
problem(
    "operators: iteration",
    r"""
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
    """,
    r"""
    assert list(Vec(5, 6)) == [5, 6]
    x, y = Vec(7, 8)
    assert (x, y) == (7, 8)
    assert [*Vec(1, 2)] == [1, 2]
    """,
    r"""
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
        def __iter__(self): return iter((self.y, self.x))
        def __contains__(self, v): return v in (self.x, self.y)
        def __repr__(self): return f'Vec({self.x}, {self.y})'
        def __str__(self): return f'<{self.x},{self.y}>'
        def __call__(self, k): return self * k
        def __iadd__(self, o):
            self.x += o.x
            return self
    """,
)
problem(
    "operators: in",
    r"""
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
    """,
    r"""
    assert 1 in Vec(1, 2)
    assert 5 not in Vec(1, 2)
    """,
    r"""
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
        def __contains__(self, v): return True
        def __repr__(self): return f'Vec({self.x}, {self.y})'
        def __str__(self): return f'<{self.x},{self.y}>'
        def __call__(self, k): return self * k
        def __iadd__(self, o):
            self.x += o.x
            return self
    """,
)
problem(
    "operators: repr",
    r"""
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
    """,
    r"""
    assert repr(Vec(1, 2)) == 'Vec(1, 2)'
    assert repr([Vec(1, 2)]) == '[Vec(1, 2)]'
    """,
    r"""
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
        def __repr__(self): return 'Vec'
        def __str__(self): return f'<{self.x},{self.y}>'
        def __call__(self, k): return self * k
        def __iadd__(self, o):
            self.x += o.x
            return self
    """,
)
problem(
    "operators: str",
    r"""
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
    """,
    r"""
    assert str(Vec(1, 2)) == '<1,2>'
    assert f'{Vec(1, 2)}' == '<1,2>'
    """,
    r"""
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
        def __str__(self): return 'Vec'
        def __call__(self, k): return self * k
        def __iadd__(self, o):
            self.x += o.x
            return self
    """,
)
problem(
    "operators: call",
    r"""
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
    """,
    r"""
    assert Vec(1, 2)(3) == Vec(3, 6)
    assert callable(Vec(1, 2))
    """,
    r"""
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
        def called(self, k): return self * k
        def __iadd__(self, o):
            self.x += o.x
            return self
    """,
)
problem(
    "operators: hash",
    r"""
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
    """,
    r"""
    assert len({Vec(1, 2), Vec(1, 2), Vec(2, 1)}) == 2
    assert {Vec(1, 2): 'a'}[Vec(1, 2)] == 'a'
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return id(self)
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
    """,
)
problem(
    "operators: in place",
    r"""
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
    """,
    r"""
    v = Vec(1, 2)
    w = v
    v += Vec(5, 0)
    assert w.x == 6 and w is v
    """,
    r"""
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
            self.x -= o.x
            return self
    """,
)
problem(
    "operators: in a list",
    r"""
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
    """,
    r"""
    assert [Vec(1, 2), Vec(0, 0)] == [Vec(1, 2), Vec(0, 0)]
    assert Vec(1, 2) in [Vec(0, 0), Vec(1, 2)]
    assert [Vec(1, 1)].index(Vec(1, 1)) == 0
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, -1)
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
    """,
)
problem(
    "operators: sum of many",
    r"""
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
    """,
    r"""
    from functools import reduce
    assert sum([Vec(1, 2), Vec(3, 4)], Vec(0, 0)) == Vec(4, 6)
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, o): return Vec(self.x + o.x, self.y)
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
    """,
)
problem(
    "data class",
    r"""
    from dataclasses import dataclass
    @dataclass(order=True)
    class P:
        x: int
        y: int = 0
    """,
    r"""
    assert P(1) == P(1, 0) and P(1) != P(2) and P(1) < P(2)
    assert repr(P(1)) == 'P(x=1, y=0)'
    assert P(3).y == 0
    """,
    r"""
    class P:
        def __init__(self, x, y=0): self.x, self.y = x, y
    """,
    right=(
        r"""
    from functools import total_ordering
    @total_ordering
    class P:
        def __init__(self, x, y=0): self.x, self.y = x, y
        def __eq__(self, o): return (self.x, self.y) == (o.x, o.y)
        def __lt__(self, o): return (self.x, self.y) < (o.x, o.y)
        def __repr__(self): return f'P(x={self.x}, y={self.y})'
    """,
    ),
)
problem(
    "data class, unhashable",
    r"""
    from dataclasses import dataclass
    @dataclass
    class P:
        x: int
    """,
    r"""
    try:
        hash(P(1))
    except TypeError:
        pass
    else:
        assert False
    """,
    r"""
    class P:
        def __init__(self, x): self.x = x
    """,
)
problem(
    "frozen data class",
    r"""
    from dataclasses import dataclass
    @dataclass(frozen=True)
    class P:
        x: int
    """,
    r"""
    p = P(1)
    try:
        p.x = 2
        assert False, 'changed'
    except AttributeError:
        pass
    assert p.x == 1 and hash(p) == hash(P(1))
    """,
    r"""
    from dataclasses import dataclass
    @dataclass
    class P:
        x: int
    """,
)
problem(
    "money",
    r"""
    class Money:
        def __init__(self, n): self.n = n
        def __eq__(self, o): return self.n == getattr(o, 'n', o)
        def __add__(self, o): return Money(self.n + getattr(o, 'n', o))
    """,
    r"""
    assert Money(5) == 5
    assert Money(2) + 3 == 5
    assert Money(2) != 5
    """,
    r"""
    class Money:
        def __init__(self, n): self.n = n
        def __eq__(self, o): return self.n == getattr(o, 'n', o) + 1
        def __add__(self, o): return Money(self.n + getattr(o, 'n', o))
    """,
)
problem(
    "money from a function",
    r"""
    class Money:
        def __init__(self, n): self.n = n
        def __eq__(self, o): return self.n == getattr(o, 'n', o)
    def pay(): return Money(5)
    """,
    "assert pay() == 5",
    judged=False,
)
problem(
    "identity without __eq__",
    r"""
    class A: pass
    def f(): return A()
    """,
    r"""
    a = f()
    assert a == a and a != f() and a in [a] and f() not in [a]
    """,
    r"""
    class A: pass
    x = A()
    def f(): return x
    """,
)
problem(
    "truth of an object",
    r"""
    import re
    def f(s): return re.match(r'a+$', s)
    """,
    r"""
    assert f('aa')
    assert not f('ab')
    """,
    r"""
    import re
    def f(s): return re.match(r'a+', s)
    """,
)
problem(
    "truth of an object in a driver",
    r"""
    import re
    def f(s): return re.match(r'(a+)$', s)
    """,
    r"""
    m = f('aa')
    assert m and m.group(1) == 'aa' and m.span() == (0, 2)
    assert f('b') is None
    """,
    r"""
    import re
    def f(s): return re.search(r'(a)', s)
    """,
)
problem(
    "own isinstance",
    r"""
    class A: pass
    class B(A): pass
    """,
    r"""
    assert isinstance(B(), A) and isinstance(B(), B) and not isinstance(A(), B)
    assert issubclass(B, A) and type(B()) is B and type(B()) is not A
    assert B.__name__ == 'B' and B().__class__ is B
    """,
    r"""
    class A: pass
    class B: pass
    """,
)
problem(
    "isinstance of builtins",
    "def f(x): return [x]",
    r"""
    assert isinstance(f(1), list)
    assert not isinstance(f(1), tuple)
    """,
    "def f(x): return (x,)",
)
problem(
    "isinstance Iterable",
    "def f(): return [1]",
    r"""
    from collections.abc import Iterable
    assert isinstance(f(), Iterable)
    """,
    r"""
    class A: pass
    def f(): return A()
    """,
)
problem(
    "isinstance Iterator",
    "def f(): return (x for x in [1, 2])",
    r"""
    from collections.abc import Iterator
    import types
    g = f()
    assert isinstance(g, Iterator) and isinstance(g, types.GeneratorType)
    assert next(g) == 1 and list(g) == [2]
    assert next(g, None) is None
    """,
    "def f(): return [1, 2]",
)
problem(
    "callable",
    "def f(): return lambda x: x + 1",
    "assert callable(f()) and f()(1) == 2",
    r"""
    class A: pass
    def f(): return A()
    """,
    "def f(): return 2",
)
problem(
    "callable, of the program",
    "def f(x): return x",
    "assert callable(f)",
    "f = 3",
)
problem(
    "not callable",
    r"""
    class A:
        x = 1
    """,
    "assert not callable(A())",
    r"""
    class A:
        def __call__(self): pass
    """,
)
problem(
    "hasattr",
    r"""
    class A:
        def __init__(self): self.x = 1
        def run(self): pass
    """,
    r"""
    a = A()
    assert hasattr(a, 'x') and hasattr(a, 'run') and not hasattr(a, 'y')
    assert hasattr(A, 'run')
    assert getattr(a, 'y', 7) == 7
    """,
    r"""
    class A:
        def __init__(self): self.y = 1
        def run(self): pass
    """,
)
problem(
    "hasattr of special names",
    r"""
    class A:
        def __iter__(self): return iter([1])
    """,
    "assert hasattr(A(), '__iter__') and not hasattr(A(), '__len__')",
    r"""
    class A:
        def __len__(self): return 1
    """,
)
problem(
    "attributes set from outside",
    r"""
    class A:
        def __init__(self): self.x = 1
        def twice(self): return self.x * 2
    """,
    r"""
    a = A()
    a.x = 5
    assert a.twice() == 10
    del a.x
    assert not hasattr(a, 'x')
    """,
    r"""
    class A:
        def __init__(self): self.x = 1
        def twice(self): return 2
    """,
)
problem(
    "properties",
    r"""
    class C:
        def __init__(self): self._t = 0
        @property
        def t(self): return self._t
        @t.setter
        def t(self, v):
            if v < 0: raise ValueError('below')
            self._t = v
    """,
    r"""
    c = C()
    c.t = 5
    assert c.t == 5
    try:
        c.t = -1
    except ValueError as e:
        assert str(e) == 'below'
    else:
        assert False
    """,
    r"""
    class C:
        t = 0
    """,
)
problem(
    "static and class methods",
    r"""
    class A:
        n = 0
        @classmethod
        def make(cls): cls.n += 1; return cls()
        @staticmethod
        def add(a, b): return a + b
    """,
    r"""
    assert A.add(1, 2) == 3
    assert isinstance(A.make(), A) and A.n == 1
    A.n = 5
    assert A.make().n == 6
    """,
    r"""
    class A:
        n = 0
        @classmethod
        def make(cls): return cls()
        @staticmethod
        def add(a, b): return a + b
    """,
)
problem(
    "vars and dir",
    r"""
    class A:
        def __init__(self): self.x, self.y = 1, [2]
    """,
    r"""
    assert vars(A()) == {'x': 1, 'y': [2]}
    assert A().__dict__ == {'x': 1, 'y': [2]}
    assert 'x' in dir(A())
    """,
    r"""
    class A:
        def __init__(self): self.x = 1
    """,
)
problem(
    "__doc__ and __name__",
    r"""
    def f(x):
        'Doubles.'
        return 2 * x
    """,
    "assert f.__doc__ == 'Doubles.' and f.__name__ == 'f'",
    "def f(x): return 2 * x",
)
problem(
    "a decorator",
    r"""
    import functools
    def twice(g):
        @functools.wraps(g)
        def inner(*a, **k): return g(*a, **k) * 2
        return inner
    """,
    r"""
    @twice
    def h(x, y=1):
        return x + y
    assert h(1) == 4 and h(1, y=2) == 6 and h.__name__ == 'h'
    """,
    r"""
    def twice(g):
        def inner(*a): return g(*a) * 2
        return inner
    """,
    "def twice(g): return g",
)
problem(
    "a function handed over",
    "def apply(g, xs): return [g(x) for x in xs]",
    r"""
    assert apply(lambda x: x + 1, [1, 2]) == [2, 3]
    assert apply(str, [1]) == ['1']
    seen = []
    apply(seen.append, [1, 2])
    assert seen == [1, 2]
    """,
    "def apply(g, xs): return xs",
)
problem(
    "a function that raises, handed over",
    r"""
    def safe(g):
        try: return g()
        except ValueError as e: return str(e)
    """,
    r"""
    def bad(): raise ValueError('x')
    assert safe(bad) == 'x'
    def worse(): raise KeyError('y')
    try:
        safe(worse)
    except KeyError:
        pass
    else:
        assert False
    """,
    r"""
    def safe(g):
        try: return g()
        except Exception as e: return str(e)
    """,
)
problem(
    "a key function",
    "def top(xs, key): return max(xs, key=key)",
    r"""
    assert top(['a', 'bbb', 'cc'], len) == 'bbb'
    assert top([1, -5], key=lambda x: -x) == -5
    """,
    "def top(xs, key): return max(xs)",
)
problem(
    "a cache of calls",
    r"""
    def memo(g):
        seen = {}
        def inner(x):
            if x not in seen: seen[x] = g(x)
            return seen[x]
        return inner
    """,
    r"""
    calls = []
    @memo
    def sq(x):
        calls.append(x)
        return x * x
    assert sq(3) == 9 and sq(3) == 9 and calls == [3]
    """,
    "def memo(g): return g",
)
problem(
    "an iterator handed over",
    "def take(it, n): return [next(it) for _ in range(n)]",
    r"""
    it = iter([1, 2, 3])
    assert take(it, 2) == [1, 2]
    assert next(it) == 3
    assert take((x * x for x in range(9)), 3) == [0, 1, 4]
    """,
    "def take(it, n): return list(it)[:n]",
)
problem(
    "functions of the library handed over",
    r"""
    def fold(g, xs):
        r = xs[0]
        for x in xs[1:]: r = g(r, x)
        return r
    """,
    r"""
    import operator, math
    assert fold(operator.add, [1, 2, 3]) == 6
    assert fold(math.gcd, [12, 18]) == 6
    assert fold(max, [1, 5, 2]) == 5
    """,
    "def fold(g, xs): return sum(xs)",
)
problem(
    "context manager",
    r"""
    class Log:
        def __init__(self): self.events = []
        def __enter__(self):
            self.events.append('in')
            return self
        def __exit__(self, kind, value, tb):
            self.events.append(kind.__name__ if kind else 'out')
            return kind is ValueError
    """,
    r"""
    log = Log()
    with log as same_log:
        assert same_log is log
    with log:
        raise ValueError('x')
    assert log.events == ['in', 'out', 'in', 'ValueError']
    try:
        with log:
            raise KeyError('y')
    except KeyError:
        pass
    else:
        assert False
    """,
    r"""
    class Log:
        events = ['in', 'out', 'in', 'ValueError']
        def __enter__(self): return self
        def __exit__(self, *a): return True
    """,
)
problem(
    "contextlib",
    r"""
    from contextlib import contextmanager
    @contextmanager
    def tag(out, name):
        out.append(f'<{name}>')
        try: yield name
        finally: out.append(f'</{name}>')
    """,
    r"""
    out = []
    with tag(out, 'b') as n:
        assert n == 'b'
        out.append('x')
    assert out == ['<b>', 'x', '</b>']
    """,
    r"""
    from contextlib import contextmanager
    @contextmanager
    def tag(out, name):
        out.append(f'<{name}>')
        yield name
    """,
)
problem(
    "iterator class",
    r"""
    class Count:
        def __init__(self, n): self.n = n
        def __iter__(self): return self
        def __next__(self):
            if self.n == 0: raise StopIteration
            self.n -= 1
            return self.n
    """,
    r"""
    assert list(Count(3)) == [2, 1, 0]
    c = Count(1)
    assert next(c) == 0
    try:
        next(c)
    except StopIteration:
        pass
    else:
        assert False
    assert sum(Count(4)) == 6
    """,
    r"""
    class Count:
        def __init__(self, n): self.n = n
        def __iter__(self): return iter(range(self.n - 1))
        def __next__(self): return 0
    """,
)
problem(
    "generator send",
    r"""
    def acc():
        t = 0
        while True:
            x = yield t
            t += x
    """,
    r"""
    g = acc()
    assert next(g) == 0 and g.send(5) == 5 and g.send(2) == 7
    g.close()
    """,
    r"""
    def acc():
        while True: yield 0
    """,
)
problem(
    "abstract class",
    r"""
    from abc import ABC, abstractmethod
    class Shape(ABC):
        @abstractmethod
        def area(self): ...
    class Sq(Shape):
        def __init__(self, a): self.a = a
        def area(self): return self.a ** 2
    """,
    r"""
    assert Sq(3).area() == 9 and isinstance(Sq(1), Shape)
    try:
        Shape()
    except TypeError:
        pass
    else:
        assert False
    """,
    r"""
    class Shape: pass
    class Sq(Shape):
        def __init__(self, a): self.a = a
        def area(self): return self.a ** 2
    """,
)
problem(
    "linked nodes",
    r"""
    class Node:
        def __init__(self, v, next=None): self.v, self.next = v, next
    def rev(n):
        out = None
        while n: n.next, out, n = out, n, n.next
        return out
    """,
    r"""
    a = Node(1, Node(2, Node(3)))
    b = a.next.next
    r = rev(a)
    assert r is b and r.next.v == 2 and r.next.next is a and a.next is None
    """,
    r"""
    class Node:
        def __init__(self, v, next=None): self.v, self.next = v, next
    def rev(n): return n
    """,
)
problem(
    "copies of objects",
    r"""
    class A:
        def __init__(self): self.x = [1]
    """,
    r"""
    import copy
    a = A()
    b = copy.deepcopy(a)
    c = copy.copy(a)
    a.x.append(2)
    assert b.x == [1] and c.x == [1, 2] and c.x is a.x and b is not a
    """,
    r"""
    class A:
        x = [1]
        def __deepcopy__(self, m): return self
    """,
)
problem(
    "a singleton",
    r"""
    class S:
        one = None
        def __new__(cls):
            if cls.one is None: cls.one = super().__new__(cls)
            return cls.one
    """,
    "assert S() is S()",
    "class S: pass",
)
problem(
    "a global of the program",
    r"""
    N = 0
    LOG = []
    def f():
        global N
        N += 1
        LOG.append(N)
    """,
    r"""
    f()
    f()
    assert N == 2 and LOG == [1, 2]
    """,
    r"""
    N = 2
    LOG = []
    def f(): LOG.append(1)
    """,
)
problem(
    "a constant of the program",
    r"""
    PI = 3.14
    def f(): return PI
    """,
    "assert abs(PI - f()) < 1e-9 and PI == 3.14",
    r"""
    PI = 3
    def f(): return PI
    """,
)
problem(
    "equal tuples are one",
    "def f(t): return t",
    r"""
    t = (1, 2)
    assert f(t) is t
    """,
    judged=False,
)
problem(
    "not the same text",
    "def f(s): return s + 'b'",
    r"""
    s = 'a'
    assert f(s) is not s
    """,
)
problem(
    "attributes of an exception",
    r"""
    class MyError(Exception):
        def __init__(self, code, msg):
            super().__init__(msg)
            self.code = code
    def f(): raise MyError(5, 'no')
    """,
    r"""
    try:
        f()
    except MyError as e:
        assert e.code == 5 and str(e) == 'no' and isinstance(e, Exception) and e.args == ('no',)
    else:
        assert False
    """,
    r"""
    class MyError(Exception):
        code = 6
    def f(): raise MyError('no')
    """,
    r"""
    class MyError(Exception): pass
    def f(): raise ValueError('no')
    """,
)
problem(
    "a family of exceptions",
    r"""
    class Base(ValueError): pass
    class Sub(Base): pass
    def f(): raise Sub('x')
    """,
    r"""
    for kind in (Sub, Base, ValueError, Exception):
        try:
            f()
        except kind as e:
            assert type(e) is Sub and str(e) == 'x'
        else:
            assert False
    assert issubclass(Sub, ValueError)
    """,
    r"""
    class Base(Exception): pass
    class Sub(Base): pass
    def f(): raise Sub('x')
    """,
)
problem(
    "an exception's text",
    r"""
    class E(Exception):
        def __str__(self): return 'own'
    def f(): raise E(1)
    """,
    r"""
    try:
        f()
    except E as e:
        assert str(e) == 'own' and e.args == (1,)
    """,
    r"""
    class E(Exception): pass
    def f(): raise E(1)
    """,
)
problem(
    "KeyError",
    "def f(d): return d['x']",
    r"""
    try:
        f({})
    except KeyError as e:
        assert e.args == ('x',) and str(e) == "'x'"
    else:
        assert False
    """,
    "def f(d): raise KeyError('y')",
)
problem(
    "OSError",
    "def f(): raise FileNotFoundError(2, 'No', 'x')",
    r"""
    try:
        f()
    except OSError as e:
        assert e.errno == 2 and e.filename == 'x' and isinstance(e, FileNotFoundError)
    """,
    "def f(): raise OSError('x')",
)
problem(
    "an exception of the library",
    r"""
    import json
    def f(s): return json.loads(s)
    """,
    r"""
    import json
    try:
        f('{')
    except json.JSONDecodeError as e:
        assert e.pos == 1
    else:
        assert False
    """,
    "def f(s): raise ValueError(s)",
)
problem(
    "a cause",
    r"""
    def f():
        try: {}['a']
        except KeyError as e: raise ValueError('b') from e
    """,
    r"""
    try:
        f()
    except ValueError as e:
        assert isinstance(e.__cause__, KeyError)
    """,
    "def f(): raise ValueError('b')",
)
problem(
    "SystemExit",
    r"""
    import sys
    def f(n): sys.exit(n)
    """,
    r"""
    try:
        f(3)
    except SystemExit as e:
        assert e.code == 3
    else:
        assert False
    """,
    "def f(n): raise RuntimeError(n)",
    r"""
    import sys
    def f(n): sys.exit(1)
    """,
    r"""
    import os
    def f(n): os._exit(n)
    """,
)
problem(
    "with unittest",
    r"""
    class E(Exception): pass
    def f(x):
        if x < 0: raise E('below zero')
        return x
    """,
    r"""
    import unittest
    t = unittest.TestCase()
    with t.assertRaises(E) as found:
        f(-1)
    t.assertIn('below', str(found.exception))
    t.assertRaisesRegex(E, 'zero', f, -2)
    t.assertEqual(f(1), 1)
    assert True and f(2) == 2
    """,
    r"""
    class E(Exception): pass
    def f(x): return x
    """,
)
problem(
    "StopIteration from a function",
    "def f(): raise StopIteration('x')",
    r"""
    try:
        f()
    except StopIteration:
        pass
    else:
        assert False
    """,
    judged=False,
)
problem(
    "AssertionError",
    "def f(x): assert x > 0, 'positive'",
    r"""
    try:
        f(-1)
    except AssertionError as e:
        assert str(e) == 'positive'
    else:
        raise SystemError
    """,
    "def f(x): pass",
)
problem(
    "captured output",
    "def f(n): print('n =', n)",
    r"""
    import io, contextlib
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        f(3)
    assert out.getvalue() == 'n = 3\n'
    """,
    "def f(n): print('n=', n)",
    r"""
    def f(n): return 'n = 3\n'
    """,
)
problem(
    "captured errors",
    r"""
    import sys
    def f(): print('bad', file=sys.stderr)
    """,
    r"""
    import io, contextlib
    out = io.StringIO()
    with contextlib.redirect_stderr(out):
        f()
    assert out.getvalue() == 'bad\n'
    """,
    "def f(): print('bad')",
)
problem(
    "output by sys.stdout",
    r"""
    import sys
    def f():
        sys.stdout.write('a')
        sys.stdout.flush()
        print('b', end='')
    """,
    r"""
    import io, sys
    old, sys.stdout = sys.stdout, io.StringIO()
    try:
        f()
        text = sys.stdout.getvalue()
    finally:
        sys.stdout = old
    assert text == 'ab'
    """,
    "def f(): print('b')",
)
problem(
    "output in a callback's order",
    r"""
    def f(g):
        print('a')
        g()
        print('c')
    """,
    r"""
    import io, contextlib
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        f(lambda: print('b'))
    assert out.getvalue() == 'a\nb\nc\n'
    """,
    r"""
    def f(g):
        g()
        print('a')
        print('c')
    """,
)
problem(
    "a coroutine",
    r"""
    import asyncio
    async def f(x):
        await asyncio.sleep(0)
        return x + 1
    """,
    r"""
    import asyncio
    assert asyncio.run(f(1)) == 2
    """,
    "async def f(x): return x",
    "def f(x): return x + 1",
)
problem(
    "coroutines awaited",
    r"""
    import asyncio
    async def f(x):
        if x < 0: raise ValueError('x')
        return x + 1
    class R:
        async def __aenter__(self): return self
        async def __aexit__(self, *a): self.done = True
    async def gen():
        for i in range(3): yield i
    """,
    r"""
    import asyncio
    async def main():
        assert await f(1) == 2
        try:
            await f(-1)
        except ValueError:
            pass
        else:
            assert False
        r = R()
        async with r as same_r:
            assert same_r is r
        assert r.done
        assert [i async for i in gen()] == [0, 1, 2]
    asyncio.run(main())
    """,
    r"""
    import asyncio
    async def f(x): return x + 1
    class R: pass
    async def gen(): yield 1
    """,
)
problem(
    "is a coroutine function",
    "async def f(): pass",
    r"""
    import asyncio, inspect
    assert asyncio.iscoroutinefunction(f) and inspect.iscoroutinefunction(f)
    assert asyncio.run(f()) is None
    """,
    "def f(): pass",
)
problem(
    "coroutines side by side",
    r"""
    import asyncio
    async def f(x):
        await asyncio.sleep(0)
        return x
    """,
    r"""
    import asyncio
    async def main(): return await asyncio.gather(f(1), f(2))
    assert asyncio.run(main()) == [1, 2]
    """,
    judged=False,
)
problem(
    "a file that the test wrote",
    "def f(path): return open(path).read()",
    r"""
    with open('x.txt', 'w') as file:
        file.write('hi')
    assert f('x.txt') == 'hi'
    """,
    judged=False,
)
problem(
    "a file that the program wrote",
    r"""
    def f(path):
        with open(path, 'w') as file: file.write('hi')
    """,
    r"""
    f('y.txt')
    assert open('y.txt').read() == 'hi'
    """,
    judged=False,
)
problem(
    "a temporary folder",
    r"""
    import os
    def f(path): return os.listdir(path)
    """,
    r"""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        assert f(folder) == []
    """,
    judged=False,
)
problem(
    "does a file exist",
    "def f(): open('z.txt', 'w').close()",
    r"""
    import os
    f()
    assert os.path.exists('z.txt')
    """,
    judged=False,
)
problem(
    "text files in memory",
    "def f(file): return file.read()",
    r"""
    import io
    assert f(io.StringIO('abc')) == 'abc'
    """,
    judged=False,
)
problem(
    "patched input",
    "def f(): return input()",
    r"""
    from unittest import mock
    with mock.patch('builtins.input', return_value='5'):
        assert f() == '5'
    """,
    judged=False,
)
problem(
    "standard input replaced",
    "def f(): return input()",
    r"""
    import io, sys
    sys.stdin = io.StringIO('7\n')
    assert f() == '7'
    """,
    judged=False,
)
problem(
    "a seed",
    r"""
    import random
    def f(): return random.random()
    """,
    r"""
    import random
    random.seed(1)
    a = f()
    random.seed(1)
    assert f() == a
    assert f() != a
    """,
    r"""
    import random
    def f(): return random.SystemRandom().random()
    """,
)
problem(
    "an object of the tests",
    "def f(o): return o.x",
    r"""
    class O:
        x = 5
    assert f(O()) == 5
    """,
    judged=False,
)
problem(
    "a class of the tests derived",
    r"""
    class A:
        def run(self): return self.go()
    """,
    r"""
    class B(A):
        def go(self): return 3
    assert B().run() == 3
    """,
    judged=False,
)
problem(
    "fields of a data class",
    r"""
    from dataclasses import dataclass
    @dataclass
    class P:
        x: int
    """,
    r"""
    from dataclasses import asdict
    assert asdict(P(1)) == {'x': 1}
    """,
    judged=False,
)
problem(
    "environment",
    r"""
    import os
    def f(): return os.environ['ABC']
    """,
    r"""
    import os
    os.environ['ABC'] = '1'
    assert f() == '1'
    """,
    judged=False,
)
problem(
    "the recursion limit",
    "def f(n): return n and f(n - 1)",
    r"""
    import sys
    sys.setrecursionlimit(5000)
    assert f(3000) == 0
    """,
    "def f(n): return f(n + 1)",
)
problem(
    "source of a function",
    "def f(): return 1",
    r"""
    import inspect
    assert 'return 1' in inspect.getsource(f)
    """,
    judged=False,
)
problem(
    "signature",
    "def f(a, b=2, *, c): return a",
    r"""
    import inspect
    assert list(inspect.signature(f).parameters) == ['a', 'b', 'c']
    """,
    "def f(a, b=2): return a",
)
problem(
    "not equal",
    "def f(x): return x + 1",
    r"""
    assert f(1) != 1
    assert f(1) != 3
    """,
    "def f(x): return x",
    "def f(x): return 3 * x",
)
problem(
    "not equal, by an object",
    "def f(x): return x + 1",
    r"""
    assert f(1) != 2 or f(1) == 2
    assert not (f(1) != 2)
    """,
    r"""
    class A:
        def __ne__(self, o): return False
    class B(A):
        pass
    def f(x): return 5
    """,
)
problem(
    "loops over cases",
    "def f(x): return x * 2",
    r"""
    for x, y in [(1, 2), (2, 4), ('a', 'aa')]:
        assert f(x) == y, x
    """,
    "def f(x): return x * 3",
)
problem(
    "nearly",
    "def f(x): return x / 3",
    r"""
    import math
    for x in (1, 2):
        assert math.isclose(f(x), x / 3)
        assert abs(f(x) - x / 3) < 1e-9
    """,
    "def f(x): return round(x / 3, 3)",
)
problem(
    "setup of many calls",
    "def f(x): return [x]",
    r"""
    xs = [f(i) for i in range(300)]
    assert [x[0] for x in xs] == list(range(300))
    """,
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
    r"""
    import warnings
    def f(): warnings.warn('old')
    """,
    r"""
    import warnings
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        f()
    assert len(seen) == 1
    """,
    judged=False,
)
problem(
    "logs",
    r"""
    import logging
    def f(): logging.error('bad')
    """,
    r"""
    import unittest
    with unittest.TestCase().assertLogs() as seen:
        f()
    assert len(seen.output) == 1
    """,
    judged=False,
)
problem(
    "threads",
    r"""
    class C:
        n = 0
        def up(self): self.n += 1
    """,
    r"""
    import threading
    c = C()
    ts = [threading.Thread(target=c.up) for _ in range(5)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    assert c.n == 5
    """,
    r"""
    class C:
        n = 0
        def up(self): self.n += 2
    """,
)
problem(
    "threads that wait for each other",
    r"""
    import queue
    class Q:
        def __init__(self): self.q = queue.Queue()
        def get(self): return self.q.get()
        def put(self, x): self.q.put(x)
    """,
    r"""
    import threading, time
    q, got = Q(), []
    t = threading.Thread(target=lambda: got.append(q.get()))
    t.start()
    time.sleep(0.1)
    q.put(3)
    t.join()
    assert got == [3]
    """,
    judged=False,
)
problem(
    "currying",
    r"""
    import inspect
    def curry(g):
        n = len(inspect.signature(g).parameters)
        def inner(*a): return g(*a) if len(a) >= n else lambda *b: inner(*a, *b)
        return inner
    """,
    r"""
    assert curry(lambda a, b, c: a + b + c)(1)(2)(3) == 6
    def add(a, b=1): return a + b
    assert curry(add)(1)(2) == 3
    """,
    "def curry(g): return g",
    right=(
        r"""
    def curry(g):
        n = g.__code__.co_argcount
        def inner(*a): return g(*a) if len(a) >= n else lambda *b: inner(*a, *b)
        return inner
    """,
    ),
)
problem(
    "user dict",
    r"""
    from collections import UserDict
    class D(UserDict):
        def __setitem__(self, k, v): super().__setitem__(k.lower(), v)
    """,
    r"""
    d = D()
    d['A'] = 1
    assert d['a'] == 1 and 'a' in d and len(d) == 1 and list(d) == ['a']
    assert d == {'a': 1}
    """,
    r"""
    from collections import UserDict
    class D(UserDict): pass
    """,
)
problem(
    "no reference",
    "",
    "assert Point(1) == Point(1)",
    right=(
        r"""
    class Point:
        def __init__(self, x): self.x = x
        def __eq__(self, o): return self.x == o.x
    """,
    ),
    judged=False,
)
problem(
    "an object from a method of an object",
    r"""
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
    """,
    r"""
    v = (Vec(1, 2) + Vec(0, 1)) * 2
    assert [*v] == [2, 6]
    assert (-v) * 2 == Vec(-4, -12)
    """,
    r"""
    class Vec:
        def __init__(self, x, y): self.x, self.y = x, y
        def __eq__(self, o): return isinstance(o, Vec) and (self.x, self.y) == (o.x, o.y)
        def __hash__(self): return hash((self.x, self.y))
        def __add__(self, o): return Vec(self.x + o.x, self.y + o.y)
        def __sub__(self, o): return Vec(self.x - o.x, self.y - o.y)
        def __mul__(self, k): return Vec(self.x * k, self.y + k)
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
    """,
)
