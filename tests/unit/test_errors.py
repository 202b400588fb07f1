"""The error tree: the spec's codes, Docker's statuses, and the drawing at its top."""

import inspect
import json
import re

import pytest

from hatoba import errors
from hatoba.errors import HatobaError, ManifestBlobUnknown, RegistryError
from hatoba.web.errors import render, render_unknown

# OCI distribution-spec 3.7 (reference/oci-distribution.md), the two legacy ones included.
SPEC = """
BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID
MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS
TAG_INVALID MANIFEST_UNVERIFIED
"""
# Docker's registry adds these (4.2); RANGE_INVALID in its version 3.
DOCKERS = {"PAGINATION_NUMBER_INVALID", "RANGE_INVALID", "UNAVAILABLE", "UNKNOWN"}
# Nothing signs manifests any more (schema 1 did).
UNUSED = {"MANIFEST_UNVERIFIED"}
STATUSES = {
    "BLOB_UNKNOWN": {404},
    # Docker's registry: 404. hatoba tells a damaged session (400, start anew) from one that is not there.
    "BLOB_UPLOAD_INVALID": {400},
    "BLOB_UPLOAD_UNKNOWN": {404},
    "DENIED": {403},
    "DIGEST_INVALID": {400},
    "MANIFEST_BLOB_UNKNOWN": {400},
    "MANIFEST_INVALID": {400, 413},
    "MANIFEST_UNKNOWN": {404},
    "NAME_INVALID": {400, 404},  # 404: a path that is no endpoint
    "NAME_UNKNOWN": {404},
    "PAGINATION_NUMBER_INVALID": {400},
    "RANGE_INVALID": {416},
    "SIZE_INVALID": {400},
    "TAG_INVALID": {400, 414},  # 414: end-7b with too many tags
    "TOOMANYREQUESTS": {429},
    "UNAUTHORIZED": {401},
    "UNAVAILABLE": {503, 507},
    "UNKNOWN": {500},
    "UNSUPPORTED": {405},
}
CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, HatobaError)]
ANSWERS = [value for value in CLASSES if issubclass(value, RegistryError)]


def test_the_codes_are_those_of_the_spec_and_of_docker():
    assert {answer.code for answer in ANSWERS} == (set(SPEC.split()) | DOCKERS) - UNUSED


def test_each_code_has_the_statuses_that_clients_know():
    found = {}
    for answer in ANSWERS:
        found.setdefault(answer.code, set()).add(answer.status)
    assert found == STATUSES


@pytest.mark.parametrize("answer", ANSWERS)
def test_each_class_says_what_it_is(answer):
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", answer.code), "the spec: upper case and underscores"
    assert 400 <= answer.status <= 599
    assert answer.text
    assert answer.text[0].islower()
    assert answer.__doc__
    assert answer().message == answer.text
    assert str(answer("another sentence")) == "another sentence"


def drawing(text):
    """The tree at the top of errors.py: name -> (what it hangs from, what is drawn beside it)."""
    drawn = {"HatobaError": (None, "")}
    for line in text.partition("    HatobaError\n")[2].splitlines():
        for match in re.finditer(r"[├└]── (\w+) *([^│├└]*)", line):
            assert match[1] not in drawn
            drawn[match[1]] = ("HatobaError" if match.start() == 4 else "RegistryError", match[2].strip())
    return drawn


def parents():
    return {cls.__name__: None if cls is HatobaError else cls.__mro__[1].__name__ for cls in CLASSES}


def test_the_drawing_shows_every_class_where_it_belongs():
    drawn = drawing(errors.__doc__)
    assert {name: parent for name, (parent, _) in drawn.items()} == parents()


def test_the_drawing_shows_each_status():
    beside = {name: text for name, (_, text) in drawing(errors.__doc__).items()}
    named = {answer.__name__: str(answer.status) for answer in ANSWERS if answer is not RegistryError}
    assert {name: beside[name] for name in named} == named


@pytest.mark.parametrize("line", [line for line in errors.__doc__.splitlines() if "── " in line])
def test_a_line_too_few_would_be_seen(line):
    drawn = drawing(errors.__doc__.replace(f"{line}\n", ""))
    assert {name: parent for name, (parent, _) in drawn.items()} != parents()


def test_a_body_is_of_the_spec():
    response = render(errors.BlobUnknown(detail={"digest": "sha256:x"}, headers=(("Retry-After", "5"),)))
    assert response.status == 404
    assert json.loads(response.body) == {
        "errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": {"digest": "sha256:x"}}]
    }
    assert dict(response.headers) == {"content-type": "application/json; charset=utf-8", "retry-after": "5"}


def test_no_detail_is_no_key():
    assert errors.NameUnknown().entries() == [
        {"code": "NAME_UNKNOWN", "message": "repository name not known to registry"}
    ]
    assert errors.NameUnknown(detail=[]).entries()[0]["detail"] == []


def test_every_missing_reference_is_an_entry():
    entries = ManifestBlobUnknown(detail=["sha256:a", "sha256:b"]).entries()
    assert [entry["detail"] for entry in entries] == [{"digest": "sha256:a"}, {"digest": "sha256:b"}]
    assert {entry["code"] for entry in entries} == {"MANIFEST_BLOB_UNKNOWN"}
    assert len(ManifestBlobUnknown().entries()) == 1
    many = ManifestBlobUnknown(detail=[f"sha256:{number}" for number in range(1003)]).entries()
    assert [entry["detail"]["digest"] for entry in many] == [f"sha256:{number}" for number in range(1000)]
    assert {entry["message"] for entry in many[:-1]} == {"blob unknown to registry"}
    assert many[-1]["message"] == "blob unknown to registry; so are 3 more"


def test_a_detail_that_is_no_json_does_not_break_the_answer():
    assert json.loads(render(errors.NameInvalid(detail={"name": {1, 2}})).body)


def test_a_defect_is_a_number_and_no_word():
    response = render_unknown("4f2-1")
    assert response.status == 500
    assert json.loads(response.body)["errors"] == [
        {"code": "UNKNOWN", "message": "unknown error", "detail": {"request": "4f2-1"}}
    ]
