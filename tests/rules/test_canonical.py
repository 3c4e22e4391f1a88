"""The canonical form is the library's, whichever way it was written."""

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from pipeline.rules.canonical import canonical

TEXT = st.text(max_size=8) | st.text('"\\/\b\f\n\r\t\x00\x1f\x7f\u2028ıİ😀\uffff', max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_it_is_what_rfc_8785_says(value: JsonValue) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan")])
def test_what_has_no_canonical_form_is_refused(value: JsonValue) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical(value)
