"""The reward source `code`: programs under their tests, in a sandbox.

response --extraction--> program --process, in the sandbox: inside/stub--> answers --compared here--> verdict

source.py       the source and its options
fields.py       the problem's fields
asserts.py      Python assertions: as calls (assertion.py, calls.py) where they are that, or in a driver (driven.py,
                inside/driver.py)
stdin.py        standard input and output, checkers
contest.py      tests as the data sets of contests have them, some of them packed (packed.py)
process.py      the program in its sandbox: requests and answers
verdict.py      what became of it
"""
