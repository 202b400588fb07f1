"""What an operator asks of manifests beyond the spec: `validation` of Docker's registry.

Owns whether an index's entry must be there and which addresses foreign layers may name. Reads no setting itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hatoba.errors import ManifestInvalid
from hatoba.oci.manifest import ParsedManifest, Referenced

_SHOWN = 255


@dataclass(frozen=True, slots=True)
class Validation:
    """`platforms` None: all of an index's manifests must be there; else those for one of these (os, architecture).

    A layer's URL must match one of `allow`, if there are any, and none of `deny`.
    """

    platforms: frozenset[tuple[str, str]] | None = None
    allow: tuple[re.Pattern[str], ...] = ()
    deny: tuple[re.Pattern[str], ...] = ()

    def required(self, reference: Referenced) -> bool:
        """Whether what is referenced must be in the registry."""
        if reference.kind != "manifest" or self.platforms is None:
            return reference.required
        platform = reference.descriptor.platform
        return platform is not None and (platform.os, platform.architecture) in self.platforms

    def check_urls(self, parsed: ParsedManifest) -> None:
        """Raise ManifestInvalid for a layer whose content may be fetched from an address that is not allowed."""
        if not self.allow and not self.deny:
            return
        for reference in parsed.references:
            for url in reference.descriptor.urls:
                if not self._allowed(url):
                    raise ManifestInvalid(f"URL {url[:_SHOWN]!r} is not allowed: validation.manifests.urls")

    def _allowed(self, url: str) -> bool:
        return (not self.allow or _matches(self.allow, url)) and not _matches(self.deny, url)


def _matches(patterns: Sequence[re.Pattern[str]], text: str) -> bool:
    return any(pattern.search(text) for pattern in patterns)
