"""How the tests call the command line: in this process, or as a child of its own."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

import comptroller
from comptroller.cli import app
from support.subprocesses import Python


def call(*words, env=None):
    """The command, in this process: exit_code, stdout, stderr."""
    return CliRunner().invoke(app, words, env=env, prog_name="comptroller")


def done(*words, env=None):
    """The stdout of a command that succeeds and has nothing to complain of."""
    result = call(*words, env=env)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refused(*words, env=None, code=2):
    """The one line that a command is refused with."""
    result = call(*words, env=env)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("comptroller: ")
    return line.removeprefix("comptroller: ")


def environment(**more):
    """The variables of a child, which runs the package under test wherever it stands."""
    return {**os.environ, "PYTHONPATH": str(Path(comptroller.__file__).parents[1]), **more}


def start(*words, program=Python, **settings):
    """The command as a child, its output in pipes."""
    return program(
        [sys.executable, "-m", "comptroller", *words],
        **{
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": environment(),
            **settings,
        },
    )


def ended(child):
    """(exit code, stdout, stderr) of a child that ends by itself."""
    try:
        out, err = child.communicate(timeout=110)
    finally:
        child.kill()
    return child.returncode, out, err
