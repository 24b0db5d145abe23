"""Names in the store: unguessable, and never a way out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from store import keys


def test_ids_are_unguessable_and_make_good_keys() -> None:
    ids = {keys.new_id("adp") for _ in range(100)}
    assert len(ids) == 100
    for each in ids:
        prefix, _, random = each.partition("_")
        assert prefix == "adp"
        assert len(bytes.fromhex(random)) == 16
        assert keys.checked_key(keys.adapter_file(each)) == f"adapters/{each}/adapter.safetensors"


def test_where_files_lie() -> None:
    assert keys.sample("adp_1", 7) == "adapters/adp_1/samples/007.png"
    assert keys.photo("job_1", 7) == "jobs/job_1/photos/007"
    assert keys.checkpoint("job_1") == "jobs/job_1/checkpoint"
    assert keys.photos("job_1").startswith(keys.job_folder("job_1") + "/")


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "../a", ".hidden", "a\0", "a\n", "a b", "ä", "a\\b", "x" * 129]
)
def test_what_is_no_id_becomes_no_key(bad: str) -> None:
    for key in (keys.adapter_folder, keys.job_folder):
        with pytest.raises(InvalidRequest, match="not an id"):
            key(bad)


@pytest.mark.parametrize("bad", ["", "/", "/etc/passwd", "a/../b", "a//b", "a/", "a/.b", "~/a", "a/b\n"])
def test_what_leads_elsewhere_is_no_key(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        keys.checked_key(bad)


@given(st.text())
def test_any_subject_has_a_folder_for_class_pictures(subject: str) -> None:
    folder = keys.class_pictures("mini", subject)
    assert keys.checked_key(folder) == folder
    assert keys.class_pictures("mini", f"  {subject} ") == folder


def test_class_pictures_belong_to_one_model_and_subject() -> None:
    folders = {keys.class_pictures(model, word) for model in ("mini", "sd15") for word in ("robot", "cat")}
    assert len(folders) == 4
    assert keys.class_pictures("mini", "Old  Man") == keys.class_pictures("mini", "old man")
