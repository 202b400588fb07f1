"""`hatoba doctor`: try a registry from outside, as Docker's clients see it, and name what is in the way.

Owns where the password comes from and what a person reads. The round itself is `hatoba.doctor`'s.
"""

from __future__ import annotations

import os
import secrets
import ssl
import sys
from pathlib import Path
from typing import Annotated

import typer

from hatoba.cli.configured import reported
from hatoba.cli.passwords import ask_password, checked_password, read_password
from hatoba.config.values import printable
from hatoba.doctor.checkup import Checkup, Finding
from hatoba.doctor.client import Address, Client
from hatoba.errors import ConfigError, NameInvalid
from hatoba.oci.reference import parse_name

_LONGEST_WAIT = 60
_PASSWORD_VARIABLE = "HATOBA_PASSWORD"  # noqa: S105  its name
_INTERRUPTED = 130

_Password = Annotated[
    str | None,
    typer.Option(
        "-p",
        "--password",
        envvar=_PASSWORD_VARIABLE,
        help="The password; better not here, where others on this machine see it, but in the variable, on standard "
        "input or typed in.",
        show_default=False,
    ),
]


def doctor(  # noqa: PLR0913  as many as there are options
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The registry, as clients name it; https unless it says http://.")
    ],
    *,
    user: Annotated[str | None, typer.Option("-u", "--user", help="Who signs in.", show_default=False)] = None,
    password: _Password = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="A CA to believe besides the system's.", show_default=False),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take any certificate: whoever answers hears the password.")
    ] = False,
    repository: Annotated[
        str | None,
        typer.Option("--repository", metavar="NAME", help="Where to push to.", show_default="hatoba-doctor/RANDOM"),
    ] = None,
    timeout: Annotated[
        int, typer.Option("--timeout", metavar="SECONDS", min=1, max=3600, help="How long to wait for an answer.")
    ] = _LONGEST_WAIT,
) -> None:
    """Try a registry as a client: ping, login, push and pull of an image of 1 and of 30 MiB, delete.

    What is wrong is told in a line each that names the culprit, mostly a setting of the proxy in front. What was pushed
    is deleted, and what could not be is named; as ever, the bytes stay on the registry's disk until garbage is
    collected. Works for other registries too.
    """
    with reported():
        address = Address.parse(url)
        name = _name(repository)
        credentials = None if user is None else (user, _password(user, password))
        client = Client(address, credentials, _context(ca, insecure=insecure), timeout)
        checkup = Checkup(client, user, name, _print)
        try:
            checkup.run()
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(_INTERRUPTED) from None
    found = {0: "all is well", 1: "1 fault"}.get(checkup.faults, f"{checkup.faults} faults")
    typer.echo(f"{address}: {found}")
    if checkup.faults:
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    took = "" if finding.seconds is None else f"  ({finding.seconds:.3f} s)"
    typer.echo(f"{finding.verdict:<6}{finding.step:<13}{finding.text}{took}")
    sys.stdout.flush()


def _name(repository: str | None) -> str:
    if repository is None:
        return f"hatoba-doctor/{secrets.token_hex(4)}"
    try:
        return parse_name(repository)
    except NameInvalid:
        raise ConfigError(f"{printable(repository)} is no name of a repository") from None


def _password(user: str, given: str | None) -> str:
    if not user or ":" in user or not user.isprintable():
        raise ConfigError("the user's name must not be empty nor have a colon")
    password = os.environ.get(_PASSWORD_VARIABLE) if given is None else given  # to Typer an empty variable is none
    if password is None:
        password = ask_password() if sys.stdin.isatty() else read_password()
        if not password:
            raise ConfigError("there is no password: -p, HATOBA_PASSWORD, or a line on standard input")
    return checked_password(password)


def _context(ca: Path | None, *, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:  # an SSLError is one, too
            raise ConfigError(f"--ca {printable(ca)}: {error.strerror or 'no certificate in it'}") from None
    return context
