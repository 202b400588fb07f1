"""Keys are distribution's, letter by letter: Docker's registry looks nowhere else (its `registry/storage/paths.go`)."""

import pytest

from hatoba.blobs import layout
from hatoba.oci.digest import Digest

SHA256 = Digest.parse("sha256:ab" + "c" * 62)
SHA512 = Digest.parse("sha512:01" + "d" * 126)
V2 = "docker/registry/v2"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (layout.REPOSITORIES, f"{V2}/repositories"),
        (layout.BLOBS, f"{V2}/blobs"),
        (layout.blob(SHA256), f"{V2}/blobs/sha256/ab/ab{'c' * 62}/data"),
        (layout.blob(SHA512), f"{V2}/blobs/sha512/01/01{'d' * 126}/data"),
        (layout.repository("a/b"), f"{V2}/repositories/a/b"),
        (layout.layers("a/b"), f"{V2}/repositories/a/b/_layers"),
        (layout.manifests("a/b"), f"{V2}/repositories/a/b/_manifests"),
        (layout.tags("a/b"), f"{V2}/repositories/a/b/_manifests/tags"),
        (layout.layer_link("a/b", SHA256), f"{V2}/repositories/a/b/_layers/sha256/ab{'c' * 62}/link"),
        (layout.revision_link("a", SHA256), f"{V2}/repositories/a/_manifests/revisions/sha256/ab{'c' * 62}/link"),
        (layout.tag("a", "v1"), f"{V2}/repositories/a/_manifests/tags/v1"),
        (layout.tag_link("a", "v1"), f"{V2}/repositories/a/_manifests/tags/v1/current/link"),
        (
            layout.tag_index_link("a", "v1", SHA256),
            f"{V2}/repositories/a/_manifests/tags/v1/index/sha256/ab{'c' * 62}/link",
        ),
        (layout.layer_link("a", SHA512), f"{V2}/repositories/a/_layers/sha512/01{'d' * 126}/link"),
        (layout.revision_link("a", SHA512), f"{V2}/repositories/a/_manifests/revisions/sha512/01{'d' * 126}/link"),
        (
            layout.tag_index_link("a", "v1", SHA512),
            f"{V2}/repositories/a/_manifests/tags/v1/index/sha512/01{'d' * 126}/link",
        ),
        (layout.uploads("a"), f"{V2}/repositories/a/_uploads"),
        (layout.upload_folder("a", "id"), f"{V2}/repositories/a/_uploads/id"),
        (layout.upload("a", "id"), f"{V2}/repositories/a/_uploads/id/data"),
        (layout.upload_started_at("a", "id"), f"{V2}/repositories/a/_uploads/id/startedat"),
    ],
)
def test_keys(key, expected):
    assert key == expected


def test_every_key_is_here(request):
    """A new function of the layout wants its line above."""
    source = request.path.read_text("utf-8")
    functions = [name for name, value in vars(layout).items() if getattr(value, "__module__", "") == layout.__name__]
    assert [name for name in functions if f"layout.{name}(" not in source] == []
