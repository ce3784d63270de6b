"""What bytes are a whole picture, and of what kind."""

import pytest

from core.picture import read_picture
from tests.pictures import GIF, JPEG, PICTURES, PNG, WEBP


@pytest.mark.parametrize("media_type", PICTURES)
@pytest.mark.parametrize("padding", [b"", b"\0", b"\r\n", b"\0" * 900])
def test_a_whole_picture_is_known_by_its_bytes(media_type: str, padding: bytes) -> None:
    found = read_picture(PICTURES[media_type] + padding)
    assert found is not None
    assert (found.media_type, found.data) == (media_type, PICTURES[media_type] + padding)


@pytest.mark.parametrize("media_type", PICTURES)
def test_the_beginning_of_a_picture_is_none(media_type: str) -> None:
    whole = PICTURES[media_type]
    assert not [end for end in range(len(whole)) if read_picture(whole[:end])]


def test_a_photograph_with_a_preview_inside_and_a_film_behind_it_is_one_picture_up_to_its_own_end() -> None:
    preview = b"\xff\xe1" + (len(JPEG) + 2).to_bytes(2, "big") + JPEG
    photograph = JPEG[:2] + preview + JPEG[2:]
    assert read_picture(photograph + b"\0\0\0\x18ftypmp42")
    assert not read_picture(photograph[:-1])


@pytest.mark.parametrize(
    "data",
    [
        b'{"error": "busy"}',
        b"<html>busy</html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"RIFF\x04\0\0\0WAVE",
        b"\n" + PNG,
        GIF[1:],
        JPEG[2:],
        WEBP[8:],
    ],
)
def test_anything_else_is_none(data: bytes) -> None:
    assert read_picture(data) is None
