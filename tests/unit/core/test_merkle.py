from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core import merkle

# The test data that Certificate Transparency implementations share (RFC 6962 reference code).
CT_INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZE_MAX = 130


class Tree:
    """Every complete subtree of a grown tree, and its root at every size."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = [merkle.hash_leaf(leaf) for leaf in leaves]
        self.nodes: dict[merkle.Subtree, bytes] = {}
        self.roots = [merkle.EMPTY_ROOT]
        frontier: merkle.Frontier = ()
        for size, leaf in enumerate(self.leaves):
            frontier, completed = merkle.grow(frontier, size, leaf)
            self.nodes.update(completed)
            self.roots.append(merkle.root_of(frontier))

    def hash_at(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree([bytes([n]) * (1 + n % 7) for n in range(SIZE_MAX)])


def test_the_published_ct_roots_are_reproduced():
    assert [root.hex() for root in Tree(CT_INPUTS).roots[1:]] == CT_ROOTS


def test_an_empty_tree_has_the_root_of_nothing():
    assert merkle.root_of(()) == merkle.EMPTY_ROOT == merkle.root_at(0, Tree([]).hash_at)


def test_the_root_at_every_earlier_size_is_recomputed_from_subtrees(tree: Tree):
    assert [merkle.root_at(n, tree.hash_at) for n in range(SIZE_MAX + 1)] == tree.roots


def test_every_inclusion_proof_verifies_for_every_size(tree: Tree):
    for size in range(1, SIZE_MAX + 1):
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, tree.hash_at)
            assert merkle.verify_inclusion(
                index, size, tree.leaves[index], proof, tree.roots[size]
            ), (index, size)
            assert len(proof) <= (size - 1).bit_length()


def test_every_consistency_proof_verifies_for_every_pair_of_sizes(tree: Tree):
    for new in range(SIZE_MAX + 1):
        for old in range(new + 1):
            proof = merkle.consistency_proof(old, new, tree.hash_at)
            assert merkle.verify_consistency(old, new, tree.roots[old], tree.roots[new], proof), (
                old,
                new,
            )


def test_no_inclusion_proof_verifies_at_another_place(tree: Tree):
    for size in range(1, 40):
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, tree.hash_at)
            for other in range(size):
                if other != index:
                    leaf, root = tree.leaves[other], tree.roots[size]
                    assert not merkle.verify_inclusion(index, size, leaf, proof, root)
                    assert not merkle.verify_inclusion(other, size, tree.leaves[index], proof, root)


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data) ^ 1 << bit).to_bytes(len(data))


@given(data=st.data())
def test_a_proof_with_one_bit_flipped_never_verifies(data: st.DataObject):
    tree = Tree([bytes([n]) for n in range(50)])
    new = data.draw(st.integers(2, 50))
    old = data.draw(st.integers(1, new - 1))
    proof = merkle.consistency_proof(old, new, tree.hash_at)
    place, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    proof[place] = flipped(proof[place], bit)
    assert not merkle.verify_consistency(old, new, tree.roots[old], tree.roots[new], proof)
    path = merkle.inclusion_proof(old, new, tree.hash_at)
    place = data.draw(st.integers(0, len(path) - 1))
    path[place] = flipped(path[place], bit)
    assert not merkle.verify_inclusion(old, new, tree.leaves[old], path, tree.roots[new])


@given(data=st.data())
def test_a_proof_with_a_hash_too_many_or_too_few_never_verifies(data: st.DataObject):
    tree = Tree([bytes([n]) for n in range(40)])
    new = data.draw(st.integers(2, 40))
    old = data.draw(st.integers(1, new - 1))
    roots = tree.roots[old], tree.roots[new]
    proof = merkle.consistency_proof(old, new, tree.hash_at)
    place = data.draw(st.integers(0, len(proof)))
    longer = [*proof[:place], data.draw(st.sampled_from(tree.leaves)), *proof[place:]]
    assert not merkle.verify_consistency(old, new, *roots, longer)
    shorter = [*proof[: place - 1], *proof[place:]] if place else proof[1:]
    assert not merkle.verify_consistency(old, new, *roots, shorter)


def test_a_shrunken_or_negative_tree_is_never_consistent(tree: Tree):
    assert not merkle.verify_consistency(5, 4, tree.roots[5], tree.roots[4], [])
    assert not merkle.verify_consistency(-1, 4, tree.roots[0], tree.roots[4], [])
    assert not merkle.verify_consistency(4, 4, tree.roots[4], tree.roots[5], [])
    assert not merkle.verify_consistency(0, 4, tree.roots[1], tree.roots[4], [])
    assert not merkle.verify_inclusion(-1, 4, tree.leaves[0], [], tree.roots[4])


def test_hashes_of_a_wrong_length_are_refused(tree: Tree):
    proof = merkle.inclusion_proof(3, 7, tree.hash_at)
    glued = [proof[0] + proof[1], *proof[2:]]
    assert not merkle.verify_inclusion(3, 7, tree.leaves[3], glued, tree.roots[7])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_leaf_outside_the_tree_has_no_proof(tree: Tree, index: int, size: int):
    with pytest.raises(ValueError):
        merkle.inclusion_proof(index, size, tree.hash_at)


def test_a_larger_tree_has_no_consistency_proof_to_a_smaller_one(tree: Tree):
    with pytest.raises(ValueError):
        merkle.consistency_proof(4, 3, tree.hash_at)
