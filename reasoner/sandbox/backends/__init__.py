"""Ways to run a program so that it can harm nobody, one file each.

bubblewrap.py, sandlock.py (with seccomp.py)   on this machine; unsandboxed.py: only on explicit request
http.py                                        a service
local.py                                       what those on this machine share
"""
