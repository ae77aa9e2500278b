"""What a provider has really answered, of which the SDK's values carry a part.

The SDK's models fetch an answer and make a `ModelResponse` of it, which has no room for the service
tier, the model that answered, the kinds of cache writes, or what the provider says it cost. So a
model is asked through a view of it: the same state (one `__dict__`), whose fetching is overheard.
The user's model is not changed (law 8), and one that is not the SDK's is asked itself.
"""

from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from types import new_class
from typing import Any

from agents import Model

from comptroller.openai_agents.billing import RawAnswer

_FETCHING = ("_fetch_response", "_fetch_chat_response", "_fetch_responses_response")
_OVERHEARD = "_comptroller_overheard"


def overheard(model: Model) -> tuple[Model, RawAnswer]:
    """Return what to ask in place of `model`, and what will be known of its answer."""
    raw, view_type = RawAnswer(), _view_type(type(model))
    if view_type is None:
        return model, raw
    view: Model = object.__new__(view_type)
    object.__setattr__(view, "__dict__", model.__dict__)
    object.__setattr__(view, _OVERHEARD, raw)
    return view, raw


@lru_cache(maxsize=256)
def _view_type(kind: type[Model]) -> type[Model] | None:
    """Make a subclass that overhears; None where there is nothing to, or it cannot be made."""
    fetching = [name for name in _FETCHING if _is_of_the_sdk(kind, name)]
    if not fetching:
        return None
    body = {
        "__slots__": (_OVERHEARD,),  # beside the `__dict__`, which is the model's
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        **{name: _overhearing(getattr(kind, name)) for name in fetching},
    }
    try:
        view: type[Model] = new_class(kind.__name__, (kind,), exec_body=lambda at: at.update(body))
        object.__new__(view)
    except Exception:  # noqa: BLE001 - somebody else's metaclass or `__init_subclass__`
        return None
    return view


def _is_of_the_sdk(kind: type, name: str) -> bool:
    return any(
        name in vars(base) and base.__module__.startswith("agents.") for base in kind.__mro__
    )


def _overhearing(fetch: Callable[..., Any]) -> Callable[..., Any]:
    async def overhearing(self: Any, *args: Any, **kwargs: Any) -> Any:
        raw: RawAnswer = getattr(self, _OVERHEARD)
        fetched = await fetch(self, *args, **kwargs)
        if isinstance(fetched, tuple):  # the beginning of a chat's stream, and its chunks
            begun, stream = fetched
            return begun, _OverheardStream(stream, raw.note)
        if not hasattr(fetched, "__aiter__"):  # a stream of events ends with the whole answer
            raw.whole = True
            raw.note(fetched)
        return fetched

    return overhearing


class _OverheardStream:
    """A stream that passes on its chunks, noted; in all else it is the stream itself."""

    def __init__(self, stream: Any, note: Callable[[Any], None]) -> None:
        self._stream, self._note = stream, note
        self._chunks: AsyncIterator[Any] = stream if hasattr(stream, "__anext__") else aiter(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> "_OverheardStream":
        return self

    async def __anext__(self) -> Any:
        chunk = await anext(self._chunks)
        self._note(chunk)
        return chunk
