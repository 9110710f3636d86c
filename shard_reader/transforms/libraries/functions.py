"""Whether a function draws random numbers, as far as its code shows.

This is a guess: it reads the names in the code of a function, of the functions of the same package that it names, and
the objects in its closures. It does not see draws in compiled code, in other packages, or behind `getattr`.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["draws_globally", "own_generator"]

_MOST = 1000  # objects that are visited for one function

# PyTorch's functions, and the methods of its tensors, that draw from its global generator.
_OF_TORCH = frozenset(
    {
        *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "bernoulli"),
        *("multinomial", "normal", "poisson", "dropout", "rrelu", "alpha_dropout", "feature_dropout"),
    }
)
_OF_TENSORS = frozenset(
    {
        *("bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_"),
        *("bernoulli", "multinomial"),
    }
)
_GENERATORS = frozenset(
    {
        *("numpy.random._generator.Generator", "numpy.random.mtrand.RandomState", "random.Random"),
        *("torch.Generator", "torch._C.Generator"),
    }
)
_MODULES = ("random", "numpy.random", "torch.distributions")


def draws_globally(function: Callable[..., Any], is_random: Callable[[Any], bool]) -> bool:
    """Whether a function seems to draw from the global generators of Python, NumPy or PyTorch.

    Args:
        is_random: whether an object that it names is a random transform of a library.
    """
    for value in _reached(function):
        if is_random(value) or _is_drawing(value) or (isinstance(value, types.FunctionType) and _names_draws(value)):
            return True
    return False


def own_generator(function: Callable[..., Any]) -> str | None:
    """The kind of a random generator that a function, or an object, keeps for itself; None if it seems to have none."""
    for value in _reached(function):
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _GENERATORS and not _is_global(value):
            return name
    return None


def _reached(function: Callable[..., Any]) -> Iterator[Any]:
    """A function and the objects that it can reach."""
    package = _package(function)
    waiting, seen = list[Any]([function]), set[int]()
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, functools.partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
            continue
        if isinstance(value, types.MethodType):
            waiting += [value.__func__, value.__self__]
        yield value
        if isinstance(value, types.FunctionType):
            # Code of other packages is not searched: theirs has generators for arguments that nobody gives.
            if _package(value) == package and "site-packages" not in value.__code__.co_filename:
                waiting += [*_named(value), *(value.__defaults__ or ())]
        elif _package(type(value)) == package and not isinstance(value, type):
            waiting += [one for one in vars(type(value)).values() if isinstance(one, types.FunctionType)]
            waiting += list(getattr(value, "__dict__", {}).values())


def _named(function: types.FunctionType) -> Iterator[Any]:
    """The values of the global names and of the closure of a function."""
    scope = _scope(function)
    for code in _codes(function.__code__):
        yield from (scope[path[0]] for path in _paths(code) if path[0] in scope)
    yield from (scope[name] for name in function.__code__.co_freevars if name in scope)


def _scope(function: types.FunctionType) -> dict[str, Any]:
    """The values of names that are not local."""
    scope = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it is not filled yet
            scope[name] = cell.cell_contents
    return scope


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code, and those of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _paths(code: types.CodeType) -> list[list[str]]:
    """The names in a code with the attributes that follow: `["np", "random", "uniform"]`."""
    paths, is_open = list[list[str]](), False
    for step in dis.get_instructions(code):
        if step.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_FAST")):
            paths.append([str(step.argval)])
            is_open = True
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if not is_open:  # of the result of a call
                paths.append([""])
            paths[-1].append(str(step.argval))
            is_open = True
        else:
            is_open = False
    return paths


def _names_draws(function: types.FunctionType) -> bool:
    """Whether a function names something that draws: `np.random`, `random.choice`, `torch.rand`."""
    scope = _scope(function)
    for code in _codes(function.__code__):
        imported = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"}
        names = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "IMPORT_FROM"}
        if imported.intersection(_MODULES) or ("torch" in imported and names & _OF_TORCH):
            return True
        for first, *attributes in _paths(code):
            value = scope.get(first)
            if value is None and "numpy" in imported and "random" in attributes[:1]:
                return True
            if "torch" in sys.modules and not _OF_TENSORS.isdisjoint(attributes):
                return True
            # Only modules are asked for attributes: those of other objects may be code.
            while attributes and isinstance(value, types.ModuleType) and value.__name__ not in _MODULES:
                value = getattr(value, attributes.pop(0), None)
            if (isinstance(value, types.ModuleType) and value.__name__ in _MODULES) or _is_drawing(value):
                return True
    return False


def _is_drawing(value: Any) -> bool:
    """Whether a value is a drawing function itself, as after `from random import choice`."""
    if not inspect.isroutine(value):  # other objects may run code when they are asked
        return False
    if _is_global(getattr(value, "__self__", None)):
        return True
    module, name = getattr(value, "__module__", None) or "", getattr(value, "__name__", "")
    is_of_torch = module.partition(".")[0] == "torch" or (isinstance(value, types.BuiltinFunctionType) and not module)
    return is_of_torch and "torch" in sys.modules and name in _OF_TORCH and callable(value)


def _is_global(value: Any) -> bool:
    # They are asked for by name, since NumPy's is loaded when it is used first.
    names = (("random", "_inst"), ("numpy.random.mtrand", "_rand"), ("torch", "default_generator"))
    known = [getattr(sys.modules.get(module), name, None) for module, name in names]
    return value is not None and any(value is one for one in known)


def _package(value: Any) -> str:
    owner = value if inspect.isroutine(value) or isinstance(value, type) else type(value)
    return str(getattr(owner, "__module__", None) or "").partition(".")[0]
