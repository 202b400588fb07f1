"""Passwords that are typed at a terminal: unseen, and Ctrl-C ends with 130 as everywhere."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios

import pytest

HTPASSWD = [sys.executable, "-c", "from hatoba.cli.htpasswd import main; main()", "-n", "bob"]


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, command, environment) -> None:
        self._ours, its = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  one system call
        )  # fmt: skip
        os.close(its)

    def read_until(self, words: str) -> str:
        said = ""
        while words not in said:
            said += os.read(self._ours, 4096).decode()
        return said

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        code = self._process.wait(timeout=120)
        os.close(self._ours)
        return code


@pytest.fixture
def terminal(e2e, tmp_path):
    def start(*command):
        return Terminal([*map(str, command)], e2e.clean_environment(HOME=str(tmp_path)))

    return start


@pytest.mark.parametrize("command", ["doctor", "users", "htpasswd"])
def test_ctrl_c(e2e, terminal, tmp_path, command):
    running, words = {
        "doctor": lambda: (terminal(e2e.HATOBA, "doctor", "http://127.0.0.1:1", "-u", "bob"), "Password: "),
        "users": lambda: (terminal(e2e.HATOBA, "users", "add", "bob", "--file", tmp_path / "users"), "Password: "),
        "htpasswd": lambda: (terminal(*HTPASSWD), "New password: "),
    }[command]()
    assert "Traceback" not in running.read_until(words)
    running.type("\x03")
    assert running.end() == 130
    assert not (tmp_path / "users").exists()


def test_the_doctor_asks(e2e, terminal):
    running = terminal(e2e.HATOBA, "doctor", "http://127.0.0.1:1", "-u", "bob")
    running.read_until("Password: ")
    running.type("secret\n")
    assert "secret" not in running.read_until("1 fault")
    assert running.end() == 1
