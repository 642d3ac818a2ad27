"""The exception tree: every exception pickles and keeps its message, and the tree in the docstring is the real one."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from differnet_ray import errors

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]


def example(cls: type[Exception]) -> Exception:
    if issubclass(cls, errors.ImageError):
        return cls("too_large", "400 megapixels: über 100")
    return cls("s3://büro/part.png: found 3 rows, expected 4; run it again")


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_exception_pickles_and_keeps_its_message(cls: type[Exception], protocol: int) -> None:
    error = example(cls)
    for other in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is cls
        assert str(other) == str(error)
        assert other.args == error.args
        assert vars(other) == vars(error)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_exception_shows_what_it_was_given(cls: type[Exception]) -> None:
    error = example(cls)
    assert all(part in str(error) for part in error.args)


def test_an_image_error_carries_the_status_and_reason_of_its_row() -> None:
    error = errors.ImageError("unreadable", "the file ends after 12 bytes")
    assert (error.status, error.reason) == ("unreadable", "the file ends after 12 bytes")
    assert str(error) == "unreadable: the file ends after 12 bytes"


def test_all_errors_can_be_caught_as_one_and_wrong_usage_exits_with_2() -> None:
    assert all(issubclass(cls, errors.DifferNetError) for cls in CLASSES)
    for cls in CLASSES:
        assert cls.exit_code == (2 if issubclass(cls, errors.ConfigError) else 1)


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    assert errors.__doc__
    parents, drawn = [""], {}
    for line in errors.__doc__.splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None or not hasattr(errors, name):
            continue
        depth = (line.index(name) - 4) // 4
        parents[depth + 1 :] = [name]
        drawn[name] = parents[depth]
    assert drawn == {cls.__name__: "" if cls is errors.DifferNetError else cls.__base__.__name__ for cls in CLASSES}
