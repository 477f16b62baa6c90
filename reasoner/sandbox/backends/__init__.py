"""Ways to run a program so that it can harm nobody, one file each.

bubblewrap.py, sandlock.py  on this machine, the second with the filter of seccomp.py
unsandboxed.py              only on explicit request
local.py                    what those on this machine share
http.py                     a service
"""
