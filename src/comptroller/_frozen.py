"""Values: classes whose instances never change.

`attrs.frozen` refuses a change at run time, and making an instance costs four times as much for it:
a call makes dozens, with a dozen members each, and that was a quarter of what a ledger spends on
it. So what is made for every call is a `frozen_record`: frozen to type checkers, which see every
line of this package, and as quick to make as any other class. What users are given is frozen
outright.
"""

from functools import partial
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from attrs import frozen as frozen_record
else:
    frozen_record = partial(attrs.define, unsafe_hash=True)

__all__ = ["frozen_record"]
