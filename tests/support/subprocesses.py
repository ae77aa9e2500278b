"""Python programs as children of the tests, without the imports of a hundred fresh interpreters.

`Python` is `subprocess.Popen` for `[sys.executable, *flags, program, *arguments]`. Its processes
are forked from one that has imported the Agents SDK, which takes seconds, and nothing of ours:
that, each imports for itself. Each is a process of its own, with its own signals, files,
environment and end. What is measured from the first instruction on (memory, modules, the encoding
of the standard streams) wants `subprocess.Popen` itself; it is used anywhere but on Linux, too.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import types
import warnings
from pathlib import Path

PROCESSES = Path(__file__).parent / "processes"
"""Programs that tests run as processes of their own."""

IMPORTED = ["agents", "agents.testing", "runcycles", "typer.testing", "uvicorn"]
MOST_BYTES = 1 << 17
NUMBER = struct.Struct("i")


@functools.cache
def _nursery(_owner):
    """The socket of the process that forks; one for each process that asks."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        nursery = subprocess.Popen(
            [sys.executable, "-I", __file__, str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
        )

    @atexit.register
    def _end():
        ours.close()
        nursery.wait(60)

    return ours


class _Forked(subprocess.Popen):
    """A child of the nursery, which tells its process id and, later, how it ended."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env,
                       startupinfo, creationflags, shell, *fds_and_more):  # fmt: skip
        """What `Popen` does here: start the program, and close the ends of pipes that it has."""
        python, *words = map(os.fsdecode, args)
        assert (python, preexec_fn, pass_fds, shell) == (sys.executable, None, (), False)
        its_in, our_in, our_out, its_out, our_err, its_err = fds_and_more[:6]
        asked = json.dumps([words, dict(env or os.environ), os.fspath(cwd or Path.cwd())])
        assert len(asked) < MOST_BYTES
        self._status, its_status = os.pipe()
        standard = (own if fd == -1 else fd for own, fd in enumerate((its_in, its_out, its_err)))
        socket.send_fds(_nursery(os.getpid()), [asked.encode()], [*standard, its_status])
        os.close(its_status)
        (self.pid,) = NUMBER.unpack(os.read(self._status, NUMBER.size))
        self._child_created = True
        self._close_pipe_fds(its_in, our_in, our_out, its_out, our_err, its_err)

    def _ended(self, timeout):
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            (self.returncode,) = NUMBER.unpack(os.read(self._status, NUMBER.size))
            os.close(self._status)
        return self.returncode

    def _internal_poll(self, _deadstate=None):
        return self._ended(0)

    def _wait(self, timeout):
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


Python = _Forked if sys.platform == "linux" else subprocess.Popen


def environment(**more):
    """The variables of a child that finds the package under test, and what tests share."""
    package = Path(importlib.import_module("comptroller").__file__)
    paths = [Path(__file__).parents[1], package.parents[1]]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **more}


def run(words, **settings):
    """(exit code, stdout, stderr) of a program that ends by itself."""
    pipes = dict.fromkeys(["stdout", "stderr"], subprocess.PIPE)
    settings = {**pipes, "text": True, "env": environment(), **settings}
    with Python([sys.executable, *words], **settings) as child:
        try:
            out, err = child.communicate(timeout=110)
        finally:
            child.kill()
    return child.returncode, out, err


# -- in the nursery


def _forks(requests):
    """Fork for each request. Returns in the children: what to run, and where."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asked, fds, *_ = socket.recv_fds(requests, MOST_BYTES, 4)
        if not asked:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _born(*fds)
            return json.loads(asked)
        for fd in fds:
            os.close(fd)


def _born(*fds):
    """Returns in a child of this process, which stays to say who it is and how it has ended."""
    *standard, status = fds
    if child := os.fork():
        for fd in standard:
            os.close(fd)  # a pipe ends with the child
        os.write(status, NUMBER.pack(child))
        os.write(status, NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
        os._exit(0)
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
        os.close(fd)
    os.close(status)


def _becomes(words, environment, place):
    """Make this process what a fresh interpreter would be; what is left of its command line."""
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    at_once = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - they live as long as the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=os.isatty(1), write_through=at_once)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    beside = True
    while words[0] in ("-P", "-W"):
        if words.pop(0) == "-P":
            beside = False
        else:
            warnings._processoptions([words.pop(0)])
    if beside:
        paths.insert(0, {"-c": "", "-m": place}.get(words[0], str(Path(words[0]).parent)))
    sys.path[:0] = paths
    if "COVERAGE_PROCESS_CONFIG" in environment:
        importlib.import_module("coverage").process_startup()
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    return words


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        asked = _forks(requests)
    match _becomes(*asked):
        case ["-m", module, *arguments]:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            sys.modules["__main__"] = program = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), vars(program))  # noqa: S102
        case [script, *arguments]:
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
