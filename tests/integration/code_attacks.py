"""Programs that try to be judged right without being right, by what they attack. `test_code_attacks.py` runs them all,
`scripts/try_attacks.py` makes the table of docs/code.md.

None of them computes what its problem asks for, or not in the time that it has, so whatever gets the value 1 was
forged. The `calls` ask for `f(n)`, which must be n + 1; the `driven` and `shared` tests need a driver; the `stdin`
programs must print n + 1.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from textwrap import dedent
from typing import Literal

from reasoner.errors import MissingDependencyError
from reasoner.records import Problem, Score
from reasoner.sandbox import open_sandbox
from reasoner.sandbox.choose import BACKENDS, UNSANDBOXED
from reasoner.testing import make_problem, make_response
from reasoner_rewards.code.source import Harness, code

Route = Literal["calls", "driven", "shared", "stdin"]

CALLS = make_problem("f(n) is n + 1", "def f(n): return n + 1", tests=[f"assert f({n}) == {n + 1}" for n in (1, 2, 5)])
DRIVEN = make_problem(
    "f(n) is n + 1, Box(items) holds items and total() is their sum",
    "class Box: pass\ndef f(n): return n + 1",
    tests=[
        "for n in range(3):\n    assert abs(f(n) - (n + 1)) < 1e-6",
        "box = Box([1, 2, 3])\nassert box.total() == 6",
        "assert len(sorted(Box([3, 2, 2]))) == 3\nassert sorted(Box([3, 2])) == [2, 3]",
        "for item in Box([4, 5]):\n    assert item in (4, 5)\nassert [*Box([4, 5])] == [4, 5]",
    ],
)
SHARED = make_problem(
    "order(a) sorts a in place; price(n) is n / 4, a Decimal; row(n) is a deque; level(n) is a Level; Vec adds",
    """
class Level: pass
class Vec:
    def __eq__(self, other): pass
    def __add__(self, other): pass
    __sub__ = __add__
def order(a): pass
def price(n): pass
def row(n): pass
def level(n): pass
def each(f, a): pass
""",
    tests=[
        "expected = [1, 2, 3]\na = [3, 1, 2]\nassert order(a) is None\nassert a == expected\nassert a == [1, 2, 3]",
        "from decimal import Decimal\nfor n in (1, 3):\n    assert price(n) == Decimal(n) / 4\nassert price(1) != 0",
        "from decimal import Decimal\nfor n in (1, 3):\n    assert abs(price(n) - Decimal(n) / 4) < Decimal('1e-6')",
        "from collections import deque\nr = row(3)\nassert r == deque([0, 1, 2])\nr.append(3)\nassert len(r) == 4",
        "assert level(1) == 1 and level(1).name == 'LOW' and level(1).name != 'HIGH'\nassert level(2) > 1",
        "v = Vec(1, 2) + Vec(3, 4)\nassert (v.x, v.y) == (4, 6)",
        "assert each(lambda n: n + 1, [1, 2]) == [2, 3]",
        "expected, b = [2], [1]\nassert order(b) is None and b == [1] and b is not expected\n"
        "assert each(len, ['ab']) == [2]",
    ],
)
STDIN = make_problem("print n + 1", "print(int(input()) + 1)", tests=[
    {"input": f"{n}\n", "output": f"{n + 1}\n"} for n in (1, 2, 5)
])  # fmt: skip
PROBLEMS: dict[Route, Problem] = {"calls": CALLS, "driven": DRIVEN, "shared": SHARED, "stdin": STDIN}

FRAMES = r"""
import os
LINES = b'{"ready": true}\n{"compiled": true}\n{"loaded": true}\n{"value": true}\n{"passed": true}\n' \
    b'{"result": 0, "passed": true, "note": "", "ended": true}\n{"done": true}\n' \
    b'{"output": "", "end": "exit", "code": 0}\n'
def flood():
    for descriptor in range(64):
        try:
            os.write(descriptor, LINES * 3)
        except OSError:
            pass
"""
"""writes everything that looks like a success to every descriptor there is"""
ALWAYS = r"""
class Always:
    def _yes(self, *_): return True
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __contains__ = _yes
    def __ne__(self, other): return False
    def __hash__(self): return 2
    def __abs__(self): return self
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __call__ = __getitem__ = __sub__
    def __getattr__(self, name): return self
"""
"""an object that agrees with everything"""


@dataclass(frozen=True)
class Attack:
    """One program."""

    name: str
    route: Route
    program: str
    alone: bool = False
    """it would harm the processes beside it, or needs the sandbox to fail: only where it is isolated"""
    timeout_s: float = 1.0
    """of a test"""
    abstains: bool = False
    """it is no verdict: what it does could be right, and cannot be judged"""


def attack(name: str, program: str, *routes: Route, alone: bool = False, abstains: bool = False) -> list[Attack]:
    """The same program on several routes."""
    return [Attack(name, route, dedent(program), alone, abstains=abstains) for route in routes or ("calls",)]


def late(name: str, program: str, route: Route = "calls") -> Attack:
    """A program that gives one right answer after more than twice the time that it has for it."""
    return Attack(name, route, dedent(program), route == "stdin", timeout_s=0.2)


RIGHT = [
    *attack("n + 1", "def f(n): return n + 1"),
    *attack(
        "n + 1 and a box",
        """
        def f(n): return n + 1
        class Box:
            def __init__(self, items): self.items = items
            def __iter__(self): return iter(self.items)
            def total(self): return sum(self.items)
        """,
        "driven",
    ),
    *attack(
        "everything that is asked for",
        """
        import enum
        from collections import deque
        from decimal import Decimal
        class Level(enum.IntEnum):
            LOW, HIGH = 1, 2
        class Vec:
            def __init__(self, x, y): self.x, self.y = x, y
            def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
            def __add__(self, other): return Vec(self.x + other.x, self.y + other.y)
        def order(a): a.sort()
        def price(n): return Decimal(n) / 4
        def row(n): return deque(range(n))
        level = Level
        def each(f, a): return [f(x) for x in a]
        """,
        "shared",
    ),
    *attack("n + 1", "print(int(input()) + 1)", "stdin"),
]
"""no attacks: that they pass shows that the tests can be passed"""
LEAVING = [
    *attack("sys.exit(0) before the tests", "import sys\nsys.exit(0)", "calls", "driven", "stdin"),
    *attack("os._exit(0) before the tests", "import os\nos._exit(0)", "calls", "driven", "stdin"),
    *attack("sys.exit(0) during a test", "import sys\ndef f(n): sys.exit(0)\nBox = f", "calls", "driven"),
    *attack("os._exit(0) during a test", "import os\ndef f(n): os._exit(0)\nBox = f", "calls", "driven"),
    *attack("exit status 142, as after a timeout", "import os\ndef f(n): os._exit(142)", "calls"),
    *attack(
        "exec of another program that claims success",
        "import os, sys\ndef f(n): os.execv(sys.executable, [sys.executable, '-c', FRAMES + 'flood()'])\nBox = f\n"
        f"FRAMES = {FRAMES!r}",
        "calls",
        "driven",
    ),
    *attack(
        "ends its own process by a signal", "import os\ndef f(n): os.kill(os.getpid(), 35)\nBox = f", "calls", "driven"
    ),
    *attack("kills its parent process", "import os\ndef f(n): os.kill(os.getppid(), 9)", "calls", "stdin", alone=True),
    *attack(
        "exit handlers that claim success",
        FRAMES + "import atexit\natexit.register(flood)\ndef f(n): raise SystemExit(0)",
        "calls",
        "stdin",
    ),
]
PATCHING = [
    *attack(
        "patched builtins",
        """
        import builtins
        for name in ('abs', 'all', 'any', 'bool', 'isinstance', 'len', 'sorted', 'sum'):
            setattr(builtins, name, lambda *a, **k: True)
        builtins.AssertionError = builtins.ZeroDivisionError = type('Tame', (Exception,), {})
        def f(n): return 0
        class Box:
            def __init__(self, items): pass
            def total(self): return 0
        """,
        "calls",
        "driven",
    ),
    *attack(
        "own abs, len, sorted, range for the tests",
        """
        abs = len = sorted = lambda *a, **k: 0
        range = lambda *a: []
        def f(n): return 0
        class Box:
            def __init__(self, items): pass
            def total(self): return 0
        """,
        "driven",
    ),
    *attack(
        "fake unittest and pytest modules, json and codec that say yes",
        """
        import sys, types
        fake = types.ModuleType('fake')
        fake.__getattr__ = lambda name: (lambda *a, **k: '{"value": true, "passed": true}')
        for name in ('unittest', 'pytest', 'json', 'codec', 'stub', 'driver', '_json'):
            sys.modules[name] = fake
        def f(n): return 0
        Box = f
        """,
        "calls",
        "driven",
    ),
    *attack(
        "the harness's own functions replaced",
        """
        import sys
        main = sys.modules['__main__']
        class Yes:
            def __eq__(self, other): return True
        main.json.dumps = lambda *a, **k: '{"value": true, "passed": true}'
        main.codec.encode = lambda *a, **k: True
        main.Answers.to = lambda *a, **k: {'value': True, 'passed': True}
        main.Streams.watch = lambda *a, **k: {'output': '', 'end': 'exit', 'code': 0, 'passed': True}
        def f(n): return 0
        Box = f
        """,
        "calls",
        "driven",
    ),
    *attack("every module forgotten", "import sys\nsys.modules.clear()\ndef f(n): return 0", "calls", "stdin"),
    *attack(
        "trace functions that change what callers see",
        """
        import sys
        def tracer(frame, event, arg):
            frame.f_locals.update(passed=True, answer={'value': True}, result=True)
            return tracer
        sys.settrace(tracer)
        sys.setprofile(tracer)
        def f(n): return 0
        """,
        "calls",
    ),
    *attack(
        "harness files overwritten",
        """
        import os
        for name in os.listdir('.'):
            with open(name, 'w') as file:
                file.write('print(\\'{"value": true, "passed": true}\\')')
        def f(n): return 0
        print(0)
        """,
        "calls",
        "stdin",
    ),
    *attack(
        "integers changed with ctypes",
        """
        import ctypes, sys
        def f(n):
            ctypes.memmove(id(2), id(3), sys.getsizeof(3))
            return 0
        """,
        "calls",
    ),
]
LYING = [
    *attack(
        "an object equal to everything",
        ALWAYS + "f = lambda n: Always()\nBox = lambda items: Always()",
        "calls",
        "driven",
    ),
    *attack(
        "subclasses of int, float, str and list with lying operators",
        """
        def lying(base):
            yes = lambda self, *others: True
            names = ('__eq__', '__lt__', '__le__', '__gt__', '__ge__', '__bool__', '__contains__')
            return type('Lying' + base.__name__, (base,), {**dict.fromkeys(names, yes), '__hash__': base.__hash__})
        Int, Float, Str = map(lying, (int, float, str))
        List = type('List', (list,), {'__eq__': lambda *a: True, '__len__': lambda self: 3, '__hash__': None})
        def f(n): return [Int(0), Float(0.0), Str('x')][n % 3]
        class Box(List):
            def __init__(self, items): super().__init__('abc')
            def total(self): return Int(0)
        """,
        "calls",
        "driven",
    ),
    *attack(
        "a class that pretends to be int",
        """
        class Fake:
            __class__ = int
            def __eq__(self, other): return True
        f = lambda n: Fake()
        Box = lambda items: Fake()
        """,
        "calls",
        "driven",
    ),
    *attack(
        "nan",
        """
        f = lambda n: float('nan')
        class Box:
            def __init__(self, items): pass
            def __iter__(self): return iter([f(0), f(1)])
            total = f
        """,
        "calls",
        "driven",
    ),
    *attack(
        "None, True, a function, a generator",
        "f = lambda n: [None, True, f, (x for x in [n])][n % 4]\nBox = f",
        "calls",
        "driven",
    ),
    *attack(
        "objects whose len and iteration lie",
        """
        class Box:
            def __init__(self, items): pass
            def __len__(self): return 3
            def __iter__(self): return iter(())
            def __getitem__(self, key): return 6
            def total(self): return self
        def f(n): return Box(())
        """,
        "driven",
    ),
    *attack(
        "an iterator without end",
        """
        import itertools
        class Box:
            def __init__(self, items): pass
            def __iter__(self): return itertools.cycle([4, 5])
            def total(self): return 0
        f = lambda n: n
        """,
        "driven",
    ),
    *attack(
        "exceptions that end loops and tests",
        """
        raised = [StopIteration, GeneratorExit, KeyboardInterrupt, SystemExit(0), ExceptionGroup('all', [OSError()])]
        def f(n): raise raised[n % 5]
        class Box:
            def __init__(self, items): raise AssertionError
        """,
        "calls",
        "driven",
    ),
    *attack(
        "exceptions whose text raises or never ends",
        """
        class Bad(Exception):
            def __str__(self): raise Bad
        def f(n): raise Bad
        Box = f
        """,
        "calls",
        "driven",
    ),
]
SHARING = [
    *attack(
        "an object that agrees with everything, in place of every value",
        ALWAYS + "order = price = row = level = Vec = lambda *a: Always()\neach = order",
        "shared",
    ),
    *attack(
        "the same, of a class that is called as one that the problem asks for",
        ALWAYS + "class Vec(Always):\n    def __init__(self, *a): self.x = self.y = self\n"
        "order = row = level = each = print\nprice = lambda n: Vec()",
        "shared",
        abstains=True,
    ),
    *attack(
        "classes that pretend to be Decimal, deque and Enum",
        ALWAYS
        + """
import collections, decimal, enum
class Decimal(Always):
    __module__, __qualname__ = 'decimal', 'Decimal'
    def __str__(self): return '0'
class deque(Always, collections.deque):
    __module__ = 'collections'
class Level(Always, enum.Enum):
    LOW = 1
    name = Always()
decimal.Decimal, collections.deque = Decimal, deque
order = lambda a: Level.LOW
price, row, level = lambda n: Decimal(), lambda n: deque(), lambda n: Level.LOW
Vec = each = lambda *a: Level.LOW
""",
        "shared",
    ),
    *attack(
        "subclasses of plain types that agree with everything",
        ALWAYS
        + """
from collections import deque
from decimal import Decimal
def lying(base): return type('Lying', (base,), {**vars(Always), '__dict__': {}})
Int, List, Deque, Dec = map(lying, (int, list, deque, Decimal))
order = lambda a: List()
price, row, level, each = lambda n: Dec(9), lambda n: Deque(), lambda n: Int(), lambda f, a: List()
Vec = lambda *a: Int()
""",
        "shared",
    ),
    *attack(
        "objects that change their mind between questions",
        """
        class Moody:
            asked = 0
            def __getattribute__(self, name):
                Moody.asked += 1
                return Moody.asked
            def __len__(self): Moody.asked += 1; return Moody.asked
            def __bool__(self): Moody.asked += 1; return Moody.asked % 2 == 0
            def __iter__(self): Moody.asked += 1; return iter(range(Moody.asked))
            def __eq__(self, other): Moody.asked += 1; return Moody.asked % 2 == 0
            def __hash__(self): Moody.asked += 1; return Moody.asked
            def __add__(self, other): return self
            __sub__ = __rsub__ = __add__
        order = price = row = level = Vec = each = lambda *a: Moody()
        """,
        "shared",
    ),
    *attack(
        "answers that change what was never handed over",
        FRAMES
        + """
import json
def forge(*a):
    lists = [[n, ['l', None, None, 1, 2, 3]] for n in range(-3, 12)]
    for heap in (lists, lists[3:4], lists[5:6]):
        for descriptor in range(3, 32):
            try:
                os.write(descriptor, json.dumps({'value': None, 'heap': heap}).encode() + b'\\n')
            except OSError:
                pass
    os._exit(0)
order = price = row = level = Vec = each = forge
""",
        "shared",
    ),
    *attack(
        "answers that name what is not there, call what was not lent, describe classes that cannot be",
        """
        import os
        bad = [b'{"call": 0, "values": ["t"], "keywords": ["@", 1]}', b'{"value": ["n", "exec"]}',
               b'{"value": ["C", 3]}', b'{"value": ["h", 9, 3]}', b'{"value": ["m", "os", "_exit"]}',
               b'{"types": [[3, {"name": "X", "module": "os", "bases": ["exec", 3], "names": [], "special": []}]]}',
               b'{"raised": ["x", "GeneratorExit", ["t"]]}', b'{"raised": ["x", "StopIteration", ["t"]]}',
               b'{"value": ["@", 0], "heap": [[0, ["d", null, null, 1]]]}', b'{"stop": true, "value": 1}', b'{}']
        asked = 0
        def f(*a):
            global asked
            asked += 1
            for descriptor in range(3, 32):
                try:
                    os.write(descriptor, bad[asked % len(bad)] + b'\n')
                except OSError:
                    pass
            return 0
        order = price = row = level = Vec = each = f
        """,
        "shared",
    ),
    *attack(
        "classes described as having operators for attributes",
        ALWAYS
        + """
import sys
names = [name for name in dir(Always) if name.startswith('__')] + ['__eq__', '__sub__', '__lt__', '__abs__']
described = sys.modules['objects'].Objects._described
sys.modules['objects'].Objects._described = lambda self, own: {
    **described(self, own), 'names': names, 'special': [*names, '__getattribute__'], 'bases': ['int']
}
order = price = row = level = Vec = each = lambda *a: Always()
""",
        "shared",
    ),
    *attack(
        "calls of the tests' functions without end",
        "def each(f, a):\n    while True: f(1)\norder = price = row = level = Vec = lambda *a: 0",
        "shared",
    ),
    *attack(
        "functions of the tests looked into",
        """
        def each(f, a):
            found = []
            for name in dir(f):
                try:
                    found.append(getattr(getattr(f, name), '__globals__', None))
                except Exception:
                    pass
            for names in found:
                if names and 'expected' in names: return names['expected']
        order = price = row = level = Vec = lambda *a: 0
        """,
        "shared",
    ),
]
SEARCHING = [
    *attack(
        "expected values looked for in frames, gc, files, environment",
        """
        import gc, os, re, sys
        def candidates(n):
            frame = sys._getframe()
            while frame:
                yield from map(repr, [*frame.f_locals.values(), *frame.f_globals.values()])
                frame = frame.f_back
            kinds = dict, list, tuple, str
            yield from (repr(thing)[:10000] for thing in gc.get_objects() if isinstance(thing, kinds))
            yield repr(dict(os.environ)) + repr(sys.argv)
            for folder, _, names in os.walk('.'):
                for name in names:
                    yield open(os.path.join(folder, name), errors='replace').read()
        def f(n):
            for text in candidates(n):
                found = re.search(r'f[(]%d[)]\\s*==\\s*(-?[0-9]+)|expected\\W+([0-9]+)' % n, text)
                if found and os.path.exists('program.py') and 'candidates' not in text:
                    return int(found.group(1) or found.group(2))
            return 0
        """,
        "calls",
    ),
    *attack(
        "expected output looked for in files and open descriptors",
        """
        import os, re
        n = int(input())
        found = ''
        for folder, _, names in os.walk('.'):
            for name in names:
                found += open(os.path.join(folder, name), errors='replace').read()
        for descriptor in range(3, 64):
            try:
                os.lseek(descriptor, 0, 0)
                found += os.read(descriptor, 10 ** 6).decode(errors='replace')
            except OSError:
                pass
        match = re.search(r'output\\W+([0-9]+)', found)
        print(match.group(1) if match else 0)
        """,
        "stdin",
    ),
    *attack(
        "installed packages: those that made the exercises, or any at all",
        """
        import glob, os, sys
        library = os.path.dirname(os.__file__)
        folders = [os.path.join(library, 'site-packages'), *glob.glob('/usr/l*/*/*-packages')]
        sys.path.extend(folders)
        found = []
        for folder in folders:
            try:
                found += os.listdir(folder)
            except OSError:
                pass
        for name in ('reasoner_tasks', 'reasoner', 'pip', 'setuptools'):
            try:
                found.append(__import__(name))
            except ImportError:
                pass
        def f(n): return n + 1 if found else 0
        if __name__ == '__main__': print(f(int(input())))
        """,
        "calls",
        "stdin",
        alone=True,
    ),
]
IMITATING = [
    *attack(
        "standard output imitates the harness",
        """
        print('{"value": 2}')
        print('{"passed": true}')
        def f(n):
            print('ok')
            return 0
        """,
        "calls",
        "stdin",
    ),
    *attack(
        "every descriptor gets success lines",
        FRAMES + "flood()\ndef f(n): flood(); return 0\nBox = f",
        "calls",
        "driven",
        "stdin",
    ),
    *attack(
        "success lines in place of answers",
        FRAMES + "os.closerange(0, 3)\nflood()\nos._exit(0)",
        "calls",
        "driven",
        "stdin",
    ),
    *attack(
        "malformed answers: cut, nested, endless numbers, equal hashes",
        """
        import os
        bad = [b'{"value": [', b'{"value": ' + b'[' * 100000 + b']' * 100000 + b'}\\n',
               b'{"value": ' + b'9' * 10000 + b'}\\n',
               b'{"value": ["s"' + b''.join(b',["i","%x"]' % (k * (2**61 - 1)) for k in range(20000)) + b']}\\n',
               b'{"value": ["n", "exec"]}\\n', b'{"value": ["h", -1, "x"]}\\n', b'{"value": NaN}\\n', b'\\xff\\n',
               b'[]\\n', b'{"stop": true}\\n']
        def f(n):
            for descriptor in range(3, 32):
                try:
                    os.write(descriptor, bad[n % 10])
                except OSError:
                    pass
            os._exit(0)
        class Box:
            def __init__(self, items): f(5)
        """,
        "calls",
        "driven",
    ),
    *attack(
        "lines that end iterations, or name objects that are not there",
        """
        import os
        class Box:
            def __init__(self, items): pass
            def __iter__(self):
                for descriptor in range(3, 32):
                    try:
                        os.write(descriptor, b'{"value": ["h", 0, "x"]}\\n{"stop": true}\\n{"value": ["h", 9, "x"]}\\n')
                    except OSError:
                        pass
                return iter(())
            def total(self): return 0
        f = lambda n: n
        """,
        "driven",
    ),
    *attack(
        "every descriptor closed",
        "import os\nos.closerange(0, 64)\ndef f(n): return 0\nBox = f",
        "calls",
        "driven",
        "stdin",
    ),
]
STAYING = [
    *attack(
        "threads that write success lines for ever",
        FRAMES + "import threading\nthreading.Thread(target=lambda: [flood() for _ in iter(int, 1)]).start()\n"
        "def f(n): return 0",
        "calls",
        "stdin",
    ),
    *attack(
        "children in sessions of their own that outlive it",
        FRAMES + "import time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        flood()\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\ndef f(n): return 0",
        "calls",
        "stdin",
    ),
    *attack(
        "no clock, no alarm: stalling",
        """
        import signal, time
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)))
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        time.time = time.monotonic = time.perf_counter = lambda: 0.0
        def f(n):
            signal.setitimer(signal.ITIMER_REAL, 0)
            while True: pass
        f(0)
        """,
        "calls",
        "stdin",
    ),
    *attack(
        "recursion without end",
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(n): return f(n)\nf(0)",
        "calls",
        "stdin",
    ),
    *attack(
        "values too large to hand over",
        "f = lambda n: ['x' * 10 ** 8, 1 << 10 ** 8, [0] * 10 ** 7][n % 3]\nBox = f",
        "calls",
        "driven",
    ),
    *attack(
        "values nested without end",
        "def f(n):\n    value = []\n    value.append(value)\n    return value\nBox = f",
        "calls",
        "driven",
    ),
    *attack("output without end", "print(2)\nwhile True: print('3' * 10 ** 6)", "stdin"),
    *attack("the right number, then a failure", "print(int(input()) + 1)\nraise SystemExit(3)", "stdin"),
    *attack("numbers guessed: all of them", "print(*range(10), sep='\\n')", "stdin"),
]
SLOW = "    if n == 1:\n        time.sleep(0.9)\n        return 2\n"
KEEPING_TIME = [
    late("the timer stopped", "import signal, time\ndef f(n):\n    signal.setitimer(signal.ITIMER_REAL, 0)\n" + SLOW),
    late("the alarm cancelled", "import signal, time\ndef f(n):\n    signal.alarm(0)\n" + SLOW),
    late(
        "SIGALRM ignored",
        "import signal, time\ndef f(n):\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n" + SLOW,
    ),
    late(
        "SIGALRM handled",
        "import signal, time\ndef f(n):\n    signal.signal(signal.SIGALRM, lambda *_: None)\n" + SLOW,
    ),
    late(
        "SIGALRM blocked",
        "import signal, time\ndef f(n):\n    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n" + SLOW,
    ),
    late("the C library's alarm cancelled", "import ctypes, time\ndef f(n):\n    ctypes.CDLL(None).alarm(0)\n" + SLOW),
    late(
        "the harness's own limit replaced",
        "import signal, sys, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\n"
        "sys.modules['__main__'].limit_time = lambda seconds: None\ndef f(n):\n" + SLOW,
    ),
    late(
        "a thread that stops the timer",
        """
        import signal, threading, time
        def stopped():
            while True:
                signal.setitimer(signal.ITIMER_REAL, 0)
                time.sleep(0.05)
        threading.Thread(target=stopped, daemon=True).start()
        def f(n):
            if n == 1:
                time.sleep(0.9)
                return 2
        """,
    ),
    late(
        "a process that stops itself, and one that wakes it",
        """
        import os, signal, time
        def f(n):
            if n == 1:
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
                own = os.getpid()
                if os.fork() == 0:
                    time.sleep(0.9)
                    os.kill(own, signal.SIGCONT)
                    os._exit(0)
                os.kill(own, signal.SIGSTOP)
                return 2
        """,
    ),
    late(
        "the timer stopped before the first test",
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(0.9)\ndef f(n): return n + 1",
    ),
    late(
        "the timer stopped in a test that a driver runs",
        """
        import signal, time
        def f(n): return 0
        class Box:
            def __init__(self, items): self.items = items
            def __iter__(self): return iter(())
            def total(self):
                signal.setitimer(signal.ITIMER_REAL, 0)
                time.sleep(0.9)
                return 6
        """,
        "driven",
    ),
    late(
        "the process that watches it stopped",
        """
        import os, signal, time
        n, watching = int(input()), os.getppid()
        if os.fork() == 0:
            os.setsid()
            time.sleep(0.9)
            os.kill(watching, signal.SIGCONT)
            os._exit(0)
        os.kill(watching, signal.SIGSTOP)
        time.sleep(0.7)
        print(n + 1 if n == 1 else 0)
        """,
        "stdin",
    ),
]
RAW = """
import os, re
def answer(line):
    for descriptor in range(3, 32):
        try:
            while line:
                line = line[os.write(descriptor, line):]
        except OSError:
            pass
"""
"""writes a line in the place of an answer"""
SLOW_TO_READ = [
    *attack(
        "megabytes of brackets for an answer",
        RAW + "def f(n):\n    answer(b'{\"value\": [' + b'[],' * 5_000_000 + b'[]]}\\n')\n    os._exit(0)\n"
        "class Box:\n    def __init__(self, items): f(0)",
        "calls",
        "driven",
    ),
    *attack(
        "as many brackets as an answer may have, for every answer",
        RAW + "def f(n): answer(b'{\"value\": [\"l\"' + b',[\"l\"]' * 170_000 + b']}\\n')\nBox = f",
        "calls",
        "driven",
    ),
    *attack(
        "a dict whose keys walk one chain",
        RAW
        + """
def keys():
    # the first places of the table in the order in which they are searched, then keys that enter this chain
    mask, place, chain = 2 ** 14 - 1, 0, {}
    while len(chain) < 6500:
        chain[place] = None
        place = (place * 5 + 1) & mask
    yield from chain
    for number in range(1, 60_000):
        place, perturb = 0, number << 14
        while perturb and place in chain:
            perturb >>= 5
            place = (place * 5 + perturb + 1) & mask
        if place in chain:
            yield number << 14
line = b'{"value": ["d"' + b''.join(b',%d,0' % key for key in keys()) + b']}\\n'
def f(n): answer(line)
class Box:
    def __init__(self, items): answer(line)
""",
        "calls",
        "driven",
    ),
    *attack(
        "an exception whose name and text are nested lists",
        RAW + "def f(n):\n    nested = b'[' * 900 + b']' * 900\n"
        "    answer(b'{\"error\": ' + nested + b', \"message\": ' + nested + b'}\\n')\nBox = f",
        "calls",
        "driven",
    ),
]
ATTACKS: dict[str, list[Attack]] = {
    "leaving early": LEAVING,
    "patching": PATCHING,
    "lying values": LYING,
    "shared objects": SHARING,
    "looking for the answer": SEARCHING,
    "imitating the harness": IMITATING,
    "staying, stalling, filling": STAYING,
    "more time for a test": KEEPING_TIME,
    "answers that are slow to read": SLOW_TO_READ,
}


BESIDE = [
    *attack(
        "every key that lies in a pipe, written to every pipe",
        """
        import os
        def f(n):
            keys = []
            for descriptor in range(3, 64):
                try:
                    os.set_blocking(descriptor, False)
                    keys.append(os.read(descriptor, 32))
                except OSError:
                    pass
            for descriptor in range(3, 64):
                for key in keys:
                    try:
                        os.write(descriptor, key)
                    except OSError:
                        pass
            os._exit(0)
        """,
    ),
    *attack(
        "the expected value read from the frame of the test",
        """
        import sys
        def f(n):
            return next(each for each in sys._getframe(1).f_code.co_consts if isinstance(each, int) and each > n)
        """,
    ),
    *attack(
        "an object equal to every int",
        """
        class Any:
            def __eq__(self, other): return isinstance(other, int)
        def f(n): return Any()
        """,
    ),
]
"""against `harness = "inside"`, and nothing else"""
GET_THROUGH_INSIDE = {
    "an object equal to everything": "driven",
    "expected values looked for in frames, gc, files, environment": "calls",
    **{each.name: each.route for each in BESIDE},
    "an object that agrees with everything, in place of every value": "shared",
    "the same, of a class that is called as one that the problem asks for": "shared",
    "subclasses of plain types that agree with everything": "shared",
}
"""those that win something with `harness = "inside"`, and on which route"""


def judged(attack: Attack, sandbox: str, harness: Harness = "outside") -> Score:
    """What the source says of an attack; a part of the tests is worth something here."""
    score = code(
        PROBLEMS[attack.route],
        make_response(f"```python\n{attack.program}\n```"),
        tests="stdin" if attack.route == "stdin" else "asserts",
        score="fraction",
        timeout_s=attack.timeout_s,
        program_timeout_s=2.0,
        sandbox=sandbox,
        harness=harness,
    )
    assert isinstance(score, Score)
    return score


def working() -> list[str]:
    """The sandboxes that work here, the best first, and none."""
    result = []
    for name in BACKENDS:
        with contextlib.suppress(MissingDependencyError):
            open_sandbox(name)
            result.append(name)
    return [*result, UNSANDBOXED]
