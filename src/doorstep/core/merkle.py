"""The Merkle tree of RFC 6962 and RFC 9162: roots, proofs and their verification, pure.

A leaf is SHA-256(0x00 || bytes), an inner node SHA-256(0x01 || left || right). A tree grows by a
*frontier*: the roots of the complete subtrees that make it up, largest first, one for each set bit
of its size. Where hashes are kept is the caller's matter: provers ask for the root of the complete
subtree `(level, index)`, which covers the leaves `[index * 2**level, (index + 1) * 2**level)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Frontier = tuple[bytes, ...]
"""Roots of the complete subtrees of a tree, left (largest) to right."""

Subtree = tuple[int, int]
"""(level, index) of a complete subtree; level 0 is a leaf."""

HashAt = Callable[[int, int], bytes]
"""(level, index) -> root of that complete subtree."""


def hash_leaf(*parts: bytes | memoryview) -> bytes:
    """The hash of one entry, which is its parts one after the other."""
    return sha256(b"".join((b"\x00", *parts))).digest()


def leaf_hasher(start: bytes) -> _Hash:
    """A hash of entries that start so: copy it, update it with the rest, take its digest."""
    return sha256(b"\x00" + start)


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbours."""
    return sha256(b"\x01" + left + right).digest()


def hash_pairs(hashes: Sequence[bytes]) -> list[bytes]:
    """`hash_node` of neighbours, 0 and 1, 2 and 3; a last one without a neighbour is left out."""
    begun, found = sha256(b"\x01").copy, []
    for left, right in zip(hashes[::2], hashes[1::2], strict=False):
        hasher = begun()
        hasher.update(left + right)
        found.append(hasher.digest())
    return found


def grow(
    frontier: Frontier, size: int, leaf: bytes
) -> tuple[Frontier, list[tuple[Subtree, bytes]]]:
    """The frontier after leaf number `size` (its hash), and each subtree that it completed.

    The completed subtrees come smallest first, the leaf itself (level 0) among them.
    """
    stack = list(frontier)
    node, level, index = leaf, 0, size
    completed = [((0, size), leaf)]
    while index & 1:
        node = hash_node(stack.pop(), node)
        level, index = level + 1, index >> 1
        completed.append(((level, index), node))
    stack.append(node)
    return tuple(stack), completed


def root_of(frontier: Sequence[bytes]) -> bytes:
    """The root of a tree with this frontier; of an empty one, SHA-256 of nothing."""
    return _fold(frontier) if frontier else EMPTY_ROOT


def root_at(size: int, hash_at: HashAt) -> bytes:
    """The root that the tree had when it held `size` leaves."""
    return root_of([hash_at(*part) for part in complete_subtrees(0, size)])


def complete_subtrees(start: int, end: int) -> list[Subtree]:
    """The complete subtrees that make up the leaves [start, end), left to right.

    `start` must be a multiple of the largest power of two that is below `end - start`, as it is
    for every range of a proof.
    """
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append((level, start >> level))
        start += 1 << level
    return parts


def inclusion_proof(index: int, size: int, hash_at: HashAt) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root at `size` (RFC 9162, 2.1.3.1).

    Raises: ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    return [_range_root(part, hash_at) for part in _path(index, 0, size)]


def consistency_proof(old: int, new: int, hash_at: HashAt) -> list[bytes]:
    """The hashes that show that the tree at `old` is a prefix of `new` (RFC 9162, 2.1.4.1).

    Empty for old = 0 and for old = new, where there is nothing to show.
    Raises: ValueError unless 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} is no prefix of one of {new}")
    if old in (0, new):
        return []
    return [_range_root(part, hash_at) for part in _subproof(old, 0, new, whole=True)]


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether `proof` leads from the leaf hash at `index` to `root` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size or not _are_hashes([leaf, root, *proof]):
        return False
    fn, sn, node = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            node = hash_node(sibling, node)
            fn, sn = _skip_levels(fn, sn)
        else:
            node = hash_node(node, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and node == root


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether `proof` shows that `old_root` is a prefix of `new_root` (RFC 9162, 2.1.4.2).

    An empty tree is a prefix of every tree, with an empty proof.
    """
    if not 0 <= old <= new or not _are_hashes([old_root, new_root, *proof]):
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if not proof:
        return False
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    return _walk_consistency(old, new, path) == (old_root, new_root)


def _walk_consistency(old: int, new: int, path: list[bytes]) -> tuple[bytes, bytes] | None:
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = path[0]
    for node in path[1:]:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            first, second = hash_node(node, first), hash_node(node, second)
            fn, sn = _skip_levels(fn, sn)
        else:
            second = hash_node(second, node)
        fn, sn = fn >> 1, sn >> 1
    return (first, second) if sn == 0 else None


def _skip_levels(fn: int, sn: int) -> tuple[int, int]:
    """The levels where the right edge has no sibling (RFC 9162: until LSB(fn) is set or fn = 0)."""
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _path(index: int, start: int, end: int) -> list[tuple[int, int]]:
    if end - start == 1:
        return []
    split = start + _largest_power_below(end - start)
    if index < split:
        return [*_path(index, start, split), (split, end)]
    return [*_path(index, split, end), (start, split)]


def _subproof(old: int, start: int, end: int, *, whole: bool) -> list[tuple[int, int]]:
    if old == end - start:
        return [] if whole else [(start, end)]
    half = _largest_power_below(end - start)
    split = start + half
    if old <= half:
        return [*_subproof(old, start, split, whole=whole), (split, end)]
    return [*_subproof(old - half, split, end, whole=False), (start, split)]


def _largest_power_below(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def _range_root(leaves: tuple[int, int], hash_at: HashAt) -> bytes:
    return _fold([hash_at(*part) for part in complete_subtrees(*leaves)])


def _fold(roots: Sequence[bytes]) -> bytes:
    node = roots[-1]
    for left in reversed(roots[:-1]):
        node = hash_node(left, node)
    return node


def _are_hashes(values: Iterable[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
