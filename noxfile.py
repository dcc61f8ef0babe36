"""Habits, in the environment that is active: `nox -s fmt` does one, `nox` every check.

`FACTORY_CI=full` runs the tests that are marked slow as well.
"""

import os
import tempfile

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "check", "test", "docs"]
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@nox.session
def fmt(session: nox.Session) -> None:
    """Formats, and mends what can be mended."""
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Asks for style and format; writes nothing."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def check(session: nox.Session) -> None:
    """Checks the types."""
    session.run("mypy")


@nox.session
def test(session: nox.Session) -> None:
    """Runs the tests; further words are for pytest."""
    chosen = [] if os.environ.get("FACTORY_CI") == "full" else ["-m", "not slow"]
    session.run("python", "-m", "pytest", *chosen, *session.posargs, env=OFFLINE)


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the pages; every warning is an error."""
    with tempfile.TemporaryDirectory() as folder:
        session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", folder, env=OFFLINE)
