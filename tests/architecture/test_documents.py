"""What the Makefile and the README say is so: every target is listed, every path that is mentioned exists."""

import re
import shutil
import subprocess

import pytest

PLACES = {"deploy", "docs", "src", "tests", "bench", ".ci"}
FILES = {"Makefile", "LICENSE", "pyproject.toml", "constraints.txt", "requirements-dev.txt", "CHANGELOG.md"}


@pytest.fixture
def make():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def make_(folder, *arguments):
        command = ["make", "--no-print-directory", *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

    return make_


def targets(makefile):
    """The targets that a person can ask for: those that are no files."""
    return set(re.findall(r"^([A-Za-z][\w-]*) *:(?!=)", makefile, flags=re.MULTILINE))


def unlisted(make, folder):
    listed = {line.split()[0] for line in make(folder, "help").splitlines() if len(line.split()) > 2}
    return targets((folder / "Makefile").read_text("utf-8")) - listed


def test_make_help_lists_every_target(make, repository):
    assert {"help", "setup", "serve", "test", "lint", "format", "check", "clean"} <= targets(
        (repository / "Makefile").read_text("utf-8")
    )
    assert unlisted(make, repository) == set()


def test_make_alone_is_make_help(make, repository):
    assert make(repository) == make(repository, "help")


def test_every_target_is_phony(repository):
    text = (repository / "Makefile").read_text("utf-8")
    phony = {name for line in re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE) for name in line.split()}
    assert targets(text) == phony


@pytest.mark.parametrize(
    "plant", ["secret:\n\ttrue", "odd-target: help\n\ttrue", "Upper: ## not listed by its capital"]
)
def test_an_unlisted_target_would_be_seen(make, repository, tmp_path, plant):
    (tmp_path / "Makefile").write_text((repository / "Makefile").read_text("utf-8") + f"\n{plant}\n")
    assert unlisted(make, tmp_path) == {plant.partition(":")[0]}


def mentioned(text):
    """Paths of the repository in a document: targets of links, and what stands in backquotes and looks like one."""
    links = {
        link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link and not link.startswith("mailto:")
    }
    quoted = {
        path.rstrip("/")
        for path in re.findall(r"`([\w.][\w./-]*)`", text)
        if path.partition("/")[0] in PLACES or path in FILES
    }
    return links | quoted


def absent(repository, document):
    text = document.read_text("utf-8")
    return [
        path
        for path in sorted(mentioned(text))
        if not (repository / path).exists() and not (document.parent / path).exists()
    ]


def test_the_readme_mentions_what_exists(repository):
    documents = sorted(repository.glob("README*.md"))
    assert documents
    assert {document.name: absent(repository, document) for document in documents} == {
        document.name: [] for document in documents
    }


def test_so_do_the_other_documents(repository):
    documents = sorted((repository / "docs").rglob("*.md"))
    found = {document.name: absent(repository, document) for document in documents}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_a_path_that_is_not_there_would_be_seen(repository, tmp_path):
    document = tmp_path / "README.md"
    document.write_text(
        "See [the docs](docs/none.md), [us](https://example.org/x), `docs/decisions/`, `src/hatoba/absent.py`, "
        "`CHANGELOG.md`, `LICENSE`, `localhost:5000/hello`, `hatoba serve`, [there](LICENSE), `config.yml`.\n"
    )
    expected = ["docs/none.md", "src/hatoba/absent.py"]
    if not (repository / "CHANGELOG.md").exists():
        expected = ["CHANGELOG.md", *expected]
    assert absent(repository, document) == expected
