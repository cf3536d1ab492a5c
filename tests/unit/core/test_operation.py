from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from doorstep.core.operation import operation, operation_of, tabulate

if TYPE_CHECKING:
    from nowhere import App


class Rollback(msgspec.Struct, frozen=True):
    service: str


class Release(msgspec.Struct, frozen=True):
    id: str


@operation("release.rollback", permission="release:write", effect="write")
def rollback(app: App, asked: Rollback) -> Release:
    """Give the service back to the last champion.

    More words.
    """
    return Release(asked.service)


def test_a_declared_function_still_is_the_function():
    assert rollback(None, Rollback("loans")) == Release("loans")


def test_the_declaration_is_read_from_the_annotations_and_the_docstring():
    declared = operation_of(rollback)
    assert (declared.input, declared.output) == (Rollback, Release)
    assert declared.summary == "Give the service back to the last champion."
    assert (declared.effect, declared.stability) == ("write", "stable")
    assert declared.handler is rollback


def test_the_first_parameters_type_need_not_exist_here():
    assert rollback.__annotations__["app"] == "App"


@pytest.mark.parametrize("name", ["release", "Release.go", "a.b.c", "", "a_b.c", "a.b\n", "-a.b"])
def test_a_name_that_is_not_noun_verb_is_refused(name: str):
    with pytest.raises(ValueError, match=r"noun\.verb"):
        operation(name, permission="a:b", effect="read")(rollback)


@pytest.mark.parametrize("permission", ["", "release", "release:", "a:b:c", "A:b"])
def test_a_permission_that_is_not_noun_action_is_refused(permission: str):
    with pytest.raises(ValueError, match="noun:action"):
        operation("a.b", permission=permission, effect="read")(rollback)


def test_an_unknown_effect_or_stability_is_refused():
    with pytest.raises(ValueError, match="effect"):
        operation("a.b", permission="a:b", effect="delete")(rollback)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stability"):
        operation("a.b", permission="a:b", effect="read", stability="soon")(rollback)  # type: ignore[arg-type]


def test_a_handler_without_a_docstring_is_refused():
    def bare(app: App, asked: Rollback) -> Release:
        return Release("")

    with pytest.raises(ValueError, match="docstring"):
        operation("a.b", permission="a:b", effect="read")(bare)


def test_input_and_answer_must_be_structs():
    def takes_dict(app: App, asked: dict) -> Release:
        """Say."""

    def answers_str(app: App, asked: Rollback) -> str:
        """Say."""

    for handler in (takes_dict, answers_str):
        with pytest.raises(TypeError, match="Struct"):
            operation("a.b", permission="a:b", effect="read")(handler)


def test_a_handler_takes_the_app_and_one_input():
    def three(app: App, asked: Rollback, more: int) -> Release:
        """Say."""

    def unannotated(app, asked):
        """Say."""

    for handler in (three, unannotated):
        with pytest.raises(TypeError):
            operation("a.b", permission="a:b", effect="read")(handler)


def test_a_table_keeps_its_order_and_refuses_a_name_twice():
    assert list(tabulate([rollback])) == ["release.rollback"]
    with pytest.raises(ValueError, match=r"release\.rollback"):
        tabulate([rollback, rollback])


def test_an_undeclared_function_is_no_operation():
    with pytest.raises(TypeError):
        operation_of(len)
