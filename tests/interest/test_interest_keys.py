"""Keys of ids: what is no text, and one text in place of a list, is refused."""

import numpy as np
import pytest

from ebbtide.interest.keys import item_key, item_keys, user_key, user_keys


@pytest.mark.parametrize("one", [318, np.int64(318), None, b"318"])
def test_an_id_that_is_no_text_is_refused(one):
    for call in (item_key, user_key, lambda given: item_keys([given]), lambda given: user_keys([given])):
        with pytest.raises(TypeError, match=r"^id: got .*; expected text, as in "):
            call(one)


@pytest.mark.parametrize("call", [item_keys, user_keys])
def test_one_id_in_place_of_a_list_is_refused(call):
    with pytest.raises(TypeError, match=r"^ids: got '318'; expected a list of ids, as in \['318'\]$"):
        call("318")


def test_keys_of_many_are_those_of_each():
    ids = ["318", "Zoë", "三体"]
    for given in (ids, tuple(ids), np.array(ids), iter(ids)):
        assert item_keys(given).tolist() == [item_key(one) for one in ids]
    assert user_keys(ids).tobytes() == b"".join(user_key(one) for one in ids)
    assert item_keys([]).shape == (0,)
    assert user_keys([]).shape == (0, 2)
