"""Runs a command with listening sockets, as a service manager passes them.

usage: pass-sockets.py KINDS NAMES COMMAND [ARGUMENT...]

KINDS is a list such as `tcp,tcp6`. NAMES is the value of LISTEN_FDNAMES, or empty.
"""

import fcntl
import os
import socket
import sys


def create(kind):
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0socket-host-test-%d" % os.getpid())
    elif kind == "udp":
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("127.0.0.1", 0))
        return listener
    elif kind == "tcp6":
        listener = socket.socket(socket.AF_INET6)
        listener.bind(("::1", 0))
    else:
        listener = socket.socket()
        listener.bind(("0.0.0.0" if kind == "any" else "127.0.0.1", 0))
    if kind != "bound":
        listener.listen()
    return listener


kinds, names, *command = sys.argv[1:]
sockets = [create(kind) for kind in kinds.split(",")]
# The sockets may have the numbers that are needed.
copies = [fcntl.fcntl(it.fileno(), fcntl.F_DUPFD_CLOEXEC, 100) for it in sockets]
for number, copy in enumerate(copies, start=3):
    os.dup2(copy, number, inheritable=True)
os.environ["LISTEN_FDS"] = str(len(copies))
os.environ["LISTEN_PID"] = str(os.getpid())
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
