"""The commands `hatoba` and `registry`. One file a group; errors become one line and an exit code in `configured`."""

from __future__ import annotations

import io
import os
import sys

import typer

from hatoba.cli import (
    backup,
    check_config,
    doctor,
    garbage_collect,
    import_,
    ls,
    rm,
    serve,
    show,
    tag,
    users,
    verify,
    version,
)


def main() -> None:
    """The command `hatoba`."""
    open_standard_streams()
    hatoba_app()()


def registry_main() -> None:
    """The command `registry`, as Docker's registry is called: `registry serve FILE`, and as its image: `FILE.yml`."""
    open_standard_streams()
    registry_app()(args=with_command(sys.argv[1:]))


def open_standard_streams() -> None:
    """Let what is closed of standard input, output and error be /dev/null.

    Else the next file that is opened gets its number, a lock or a database, and log lines are written into it. What the
    terminal's encoding lacks is escaped, as Python does it on standard error alone.
    """
    for descriptor, mode in enumerate("rww"):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], open(descriptor, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def hatoba_app() -> typer.Typer:
    """The commands of `hatoba`."""
    app = _app("hatoba", "hatoba: a self-hosted OCI / Docker registry.")
    app.command("serve")(serve.serve)
    app.command("check-config")(check_config.check_config)
    app.command("ls")(ls.ls)
    app.command("show")(show.show)
    app.command("tag")(tag.tag)
    app.command("rm")(rm.rm)
    app.command("doctor")(doctor.doctor)
    app.command("verify")(verify.verify)
    app.command("backup")(backup.backup)
    app.command("import")(import_.import_)
    app.command("version")(version.version)
    app.add_typer(users.app, name="users")
    return app


def registry_app() -> typer.Typer:
    """The commands of `registry`."""
    app = _app("registry", "hatoba under the name of Docker's registry.")
    app.command("serve")(serve.registry_serve)
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command("garbage-collect", context_settings=anything)(garbage_collect.garbage_collect)
    app.command("version")(version.version)
    app.callback(invoke_without_command=True)(version.version_option)
    return app


def with_command(arguments: list[str]) -> list[str]:
    """`FILE.yml` alone means `serve FILE.yml`, as the entry point of Docker's image has it."""
    return ["serve", *arguments] if arguments and arguments[0].endswith((".yml", ".yaml")) else arguments


def _app(name: str, words: str) -> typer.Typer:
    # Typer's tracebacks show variables, and so passwords.
    return typer.Typer(
        name=name, help=words, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
