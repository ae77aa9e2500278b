"""The errors of a run as the Agents SDK hands them on.

The SDK lets an `AgentsException` through as it is and attaches what it knows of the run as
`run_data`; any other exception of a hook it wraps in a `UserError`. So what a run raises through
the SDK is of a class that is both: `except comptroller.BudgetExceeded` catches it, as does
`except agents.AgentsException`.
"""

from typing import cast

from agents import AgentsException

from comptroller import errors


class RunCancelled(errors.RunCancelled, AgentsException):
    __doc__ = errors.RunCancelled.__doc__


class LimitReached(errors.LimitReached, AgentsException):
    __doc__ = errors.LimitReached.__doc__


class ToolDenied(errors.ToolDenied, AgentsException):
    __doc__ = errors.ToolDenied.__doc__


class BudgetExceeded(errors.BudgetExceeded, AgentsException):
    __doc__ = errors.BudgetExceeded.__doc__


class BudgetNotFound(errors.BudgetNotFound, AgentsException):
    __doc__ = errors.BudgetNotFound.__doc__


class UnitMismatch(errors.UnitMismatch, AgentsException):
    __doc__ = errors.UnitMismatch.__doc__


class LedgerError(errors.LedgerError, AgentsException):
    __doc__ = errors.LedgerError.__doc__


class LedgerRefused(errors.LedgerRefused, AgentsException):
    __doc__ = errors.LedgerRefused.__doc__


class LedgerUnreachable(errors.LedgerUnreachable, AgentsException):
    __doc__ = errors.LedgerUnreachable.__doc__


class LedgerMisbehaved(errors.LedgerMisbehaved, AgentsException):
    __doc__ = errors.LedgerMisbehaved.__doc__


class CredentialsMissing(errors.CredentialsMissing, AgentsException):
    __doc__ = errors.CredentialsMissing.__doc__


class CallDenied(errors.CallDenied, AgentsException):
    __doc__ = errors.CallDenied.__doc__


class ComptrollerError(errors.ComptrollerError, AgentsException):
    __doc__ = errors.ComptrollerError.__doc__


Kinds = dict[type[errors.ComptrollerError], type[errors.ComptrollerError]]

_KINDS: Kinds = {
    cast("type[errors.ComptrollerError]", kind.__base__): kind
    for kind in (
        RunCancelled,
        LimitReached,
        ToolDenied,
        BudgetExceeded,
        BudgetNotFound,
        UnitMismatch,
        LedgerError,
        LedgerRefused,
        LedgerUnreachable,
        LedgerMisbehaved,
        CredentialsMissing,
        CallDenied,
        ComptrollerError,
    )
}


def for_sdk(error: errors.ComptrollerError) -> errors.ComptrollerError:
    """Return `error` as an `AgentsException`, or itself where it is one already."""
    return in_class(error, _KINDS)


def in_class(error: errors.ComptrollerError, kinds: Kinds) -> errors.ComptrollerError:
    """Return the same error in the class that `kinds` has for its own, or itself.

    Fields, arguments, cause and traceback go along: to who catches it, it is the one that was
    raised.
    """
    kind = kinds.get(type(error))
    if kind is None:
        return error
    twin = kind(*error.args)
    vars(twin).update(vars(error))
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)
