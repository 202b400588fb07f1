"""What hatoba brings along when it is installed may be brought along by an Apache-2.0 program."""

import re
from email.message import Message
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement

# Permissive, or copyleft of single files that hatoba does not change (MPL).
SUITABLE = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
    "any-OSI",  # apsw: whichever licence of the Open Source Initiative one likes
}
# Older metadata has free text or classifiers instead of an expression.
WRITTEN = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def closure(name):
    """The names of everything that installing `name` installs here, itself included."""
    found, pending = set(), [(name, "")]
    while pending:
        current, extra = pending.pop()
        if (current, extra) in found:
            continue
        found.add((current, extra))
        for text in distribution(current).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                canonical = re.sub(r"[-_.]+", "-", requirement.name).lower()
                pending += [(canonical, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in found}


def licence(metadata):
    """What the metadata says, as an expression of SPDX."""
    if expression := metadata["License-Expression"]:
        return expression
    text = (metadata["License"] or "").strip()
    if text and "\n" not in text and (WRITTEN.get(text, text) in SUITABLE):
        return WRITTEN.get(text, text)
    classifiers = [entry.rpartition(" :: ")[2] for entry in metadata.get_all("Classifier", []) if "License ::" in entry]
    return " OR ".join(WRITTEN.get(entry, entry) for entry in classifiers) or text or "unknown"


def suits(expression):
    """Whether one of the alternatives asks for nothing that Apache-2.0 cannot give."""
    plain = expression.replace("(", " ").replace(")", " ")
    alternatives = re.split(r"\s+OR\s+", plain)
    return any(
        all(part.strip() in SUITABLE for part in re.split(r"\s+AND\s+", alternative)) for alternative in alternatives
    )


def test_hatoba_is_under_apache():
    assert licence(distribution("hatoba").metadata) == "Apache-2.0"


def test_the_licences_of_what_is_installed_suit():
    names = closure("hatoba")
    assert {"hatoba", "apsw", "granian", "pydantic-core", "click"} <= names
    assert not names & {"pytest", "mypy", "hypothesis"}, "tools are not brought along"
    found = {name: licence(distribution(name).metadata) for name in names}
    assert {name: text for name, text in found.items() if not suits(text)} == {}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("License-Expression", "AGPL-3.0-only")], False),
        ([("License-Expression", "MIT AND GPL-3.0-or-later")], False),
        ([("License-Expression", "GPL-2.0-only OR MIT")], True),
        ([("License-Expression", "Apache-2.0 AND BSD-2-Clause")], True),
        ([("License", "GPL-3.0")], False),
        ([("License", "MIT")], True),
        ([("License", "Long text\nof a licence"), ("Classifier", "License :: OSI Approved :: MIT License")], True),
        ([("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)")], False),
        ([("Classifier", "License :: OSI Approved :: BSD License")], True),
        ([("Classifier", "Topic :: Database")], False),
        ([], False),
    ],
)
def test_what_suits_and_what_does_not(headers, expected):
    metadata = Message()
    for name, value in headers:
        metadata.add_header(name, value.replace("\n", "\n "))
    assert suits(licence(metadata)) is expected


def test_a_dependency_that_does_not_suit_would_be_seen(tmp_path, monkeypatch):
    for name, lines in {
        "sticky": "License-Expression: AGPL-3.0-only\n",
        "host": "License-Expression: MIT\nRequires-Dist: sticky\nRequires-Dist: absent; extra == 'more'\n",
    }.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    assert closure("host") == {"host", "sticky"}
    assert [name for name in closure("host") if not suits(licence(distribution(name).metadata))] == ["sticky"]
