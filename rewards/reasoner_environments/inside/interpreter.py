"""Runs pieces of Python one after the other in one namespace; started in a sandbox by the tool `python`.

Each line of standard input is a piece, `{"code": ..., "mark": ...}`; what it prints goes to standard output as it is,
and a line with the mark says that it has ended. The piece itself reads no input.
"""

import json
import os
import sys
import traceback

requests = os.fdopen(os.dup(0), "rb")
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
os.close(nothing)
os.dup2(1, 2)
namespace = {"__name__": "__main__"}
for line in requests:
    request = json.loads(line)
    try:
        exec(compile(request["code"], "<code>", "exec"), namespace)
    except SystemExit:
        pass
    except BaseException as error:
        own = error.__traceback__  # the frame of this program
        traceback.print_exception(type(error), error, own.tb_next if own else None, limit=-5)
        del own
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    os.write(1, b"\n" + request["mark"].encode() + b"\n")
