"""Whether a function draws random numbers, as far as its code shows.

This is a guess: it reads the names in the code of a function, of the functions of the same package that it names, and
the objects in its closures. It does not see draws in compiled code, in other packages, or behind `getattr`.
"""

from __future__ import annotations

import functools
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
    for value, code in _reached(function):
        if is_random(value) or _is_drawing(value):
            return True
        if code is not None and _names_draws(code, getattr(value, "__globals__", {})):
            return True
    return False


def own_generator(function: Callable[..., Any]) -> str | None:
    """The kind of a random generator that a function, or an object, keeps for itself; None if it seems to have none."""
    for value, _ in _reached(function):
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _GENERATORS and not _is_global(value):
            return name
    return None


def _reached(function: Callable[..., Any]) -> Iterator[tuple[Any, types.CodeType | None]]:
    """A function and the objects that it can reach, each with its code, if it has some."""
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
        code = value.__code__ if isinstance(value, types.FunctionType) else None
        yield value, code
        if isinstance(value, types.FunctionType):
            # Code of other packages is not searched: theirs has generators for arguments that nobody gives.
            if _package(value) == package and "site-packages" not in value.__code__.co_filename:
                waiting += [*_named(value), *(value.__defaults__ or ())]
        elif _package(type(value)) == package and not isinstance(value, type):
            waiting += [one for one in vars(type(value)).values() if isinstance(one, types.FunctionType)]
            waiting += list(getattr(value, "__dict__", {}).values())


def _named(function: types.FunctionType) -> Iterator[Any]:
    """The values of the global names and of the closure of a function."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    yield from (function.__globals__[name] for name in names if name in function.__globals__)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is not filled yet
            continue


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code, and those of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names_draws(code: types.CodeType, scope: dict[str, Any]) -> bool:
    """Whether code names something of a module that draws: `np.random`, `random.choice`, `torch.rand`."""
    for one in _codes(code):
        names = set(one.co_names)
        # Also modules that are imported inside of the function.
        found = {name: scope.get(name, sys.modules.get(name)) for name in names}
        modules = {getattr(module, "__name__", "") for module in found.values() if isinstance(module, types.ModuleType)}
        if modules.intersection(_MODULES) or ("numpy" in modules and "random" in names):
            return True
        if "torch" in sys.modules and names & _OF_TENSORS:
            return True
        if any(name.partition(".")[0] == "torch" for name in modules) and names & _OF_TORCH:
            return True
    return False


def _is_drawing(value: Any) -> bool:
    """Whether a value is a drawing function itself, as after `from random import choice`."""
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
    return str(getattr(value, "__module__", None) or "").partition(".")[0]
