"""The spec's vocabulary: digests, names, descriptors, manifests. Pure: no I/O, no rules of a registry."""
