"""Images a caller gives -> pixel values, and where they stand in rows of ids; no model, no Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport.runtime.contract.errors import InvalidInputError, UnsupportedError
from kexport.runtime.contract.manifest import Images, ImageSteps
from kexport.runtime.images.pixels import read_images, to_pixel_values
from kexport.runtime.images.prompts import place_images, read_placed_images, with_replacements
from kexport.runtime.images.resize import cropped, padded, resize
from kexport.runtime.prompts import Prompt

RECORD = Images(height=4, width=6, tokens=2, most=2, marker="<i>", replacement="[<i>xx]", placeholder_id=9, steps=ImageSteps(scale=(0.5,), offset=(-1.0,)))


def image(height: int, width: int, value: float = 1.0) -> Any:
    return np.full((height, width, 3), value, np.float32)


def prompt(*rows: list[int]) -> Prompt:
    length = max(map(len, rows)) + 2
    ids = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    return Prompt(ids, ids > 0)


def code(error: pytest.ExceptionInfo[InvalidInputError]) -> str:
    return error.value.code


def test_bilinear_halves_between_neighbours_and_repeats_the_edge() -> None:
    """Twice as wide: each new pixel lies a quarter from its old one; beyond the edge is the edge."""
    line = np.array([[[0.0], [8.0]]], np.float32)
    np.testing.assert_array_equal(resize(line, 1, 4, "bilinear")[0, :, 0], [0, 2, 6, 8])
    np.testing.assert_array_equal(resize(line, 1, 4, "nearest")[0, :, 0], [0, 0, 8, 8])
    np.testing.assert_array_equal(resize(line.transpose(1, 0, 2), 4, 1, "bilinear")[:, 0, 0], [0, 2, 6, 8])


def test_sides_of_another_ratio_are_cut_or_padded_in_the_middle() -> None:
    """A wide image for a square: the middle stays, or zeros come above and below."""
    wide = np.arange(2 * 6, dtype=np.float32).reshape(2, 6, 1)
    np.testing.assert_array_equal(cropped(wide, 4, 4)[..., 0], wide[:, 2:4, 0])
    assert padded(wide, 4, 4).shape == (6, 6, 1) and not padded(wide, 4, 4)[:2].any() and not padded(wide, 4, 4)[4:].any()


def test_images_of_a_batch_share_a_frame() -> None:
    """A smaller image gets zeros below and to the right before it is resized, so its values depend on its neighbours."""
    alone = to_pixel_values([[image(4, 6)]], RECORD)[0]
    framed = to_pixel_values([[image(4, 6)], [], [image(8, 12)]], RECORD)
    assert [values.shape for values in framed] == [(1, 4, 6, 3), (0, 4, 6, 3), (1, 4, 6, 3)]
    np.testing.assert_array_equal(alone, -0.5)
    assert (framed[0][0, :2, :3] == -0.5).all() and (framed[0][0, 2:, 3:] == -1).all()


def test_forms_of_one_and_of_several_prompts() -> None:
    """One prompt: an image or a list; several: one each, a list each, or one array of all."""
    one = image(2, 2)
    assert [len(row) for row in read_images(one, 1, is_single=True, record=RECORD)] == [1]
    assert [len(row) for row in read_images([one, one.astype(int)], 1, is_single=True, record=RECORD)] == [2]
    assert [len(row) for row in read_images([[one], [], [one, one]], 3, is_single=False, record=RECORD)] == [1, 0, 2]
    assert [len(row) for row in read_images(np.stack([one, one]), 2, is_single=False, record=RECORD)] == [1, 1]


@pytest.mark.parametrize("given", [5, [5], [image(2, 2)[..., :2]], [np.zeros((2, 2))], [image(2, 2)] * 3, b"bytes"])
def test_what_is_no_image_is_refused(given: Any) -> None:
    """Numbers, other channels, other ranks, images for other prompts: KX580."""
    with pytest.raises(InvalidInputError) as error:
        read_images(given, 2, is_single=False, record=RECORD)
    assert code(error) == "KX580"


def test_a_file_is_its_pixels(tmp_path: Path) -> None:
    """PNG with and without alpha, as RGB; a file that is none is KX581."""
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype(np.uint8)
    for mode in ("RGB", "RGBA"):
        pillow.fromarray(pixels).convert(mode).save(tmp_path / f"{mode}.png")
        np.testing.assert_array_equal(read_images(tmp_path / f"{mode}.png", 1, is_single=True, record=RECORD)[0][0], pixels)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InvalidInputError) as error:
        read_images([str(tmp_path / "text.png")], 1, is_single=True, record=RECORD)
    assert code(error) == "KX581"


def test_texts_get_what_stands_for_an_image() -> None:
    """Every marker is replaced, once."""
    assert with_replacements(["a <i> b<i>", "none"], RECORD) == ["a [<i>xx] b[<i>xx]", "none"]


def test_a_marker_that_becomes_something_unknown_is_refused() -> None:
    """An artifact for texts alone of a model that takes images: no text with its marker is read as if that were text."""
    unknown = Images(height=0, width=0, tokens=0, marker="<i>")
    assert with_replacements(["none"], unknown) == ["none"]
    with pytest.raises(UnsupportedError) as error:
        with_replacements(["none", "one <i>"], unknown)
    assert error.value.code == "KX584"


def test_runs_of_the_placeholder_are_the_images() -> None:
    """Two images in the first row, none in the second."""
    found = place_images(prompt([1, 9, 9, 2, 9, 9, 3], [1, 2]), [np.zeros((2, 4, 6, 3)), np.zeros((0, 4, 6, 3))], RECORD)
    assert found.vision_mask[0].tolist() == [False, True, True, False, True, True, False, False, False]
    assert (found.has_images(0), found.has_images(1)) == (True, False)


@pytest.mark.parametrize(
    ("row", "images", "expected"),
    [
        ([1, 9, 9, 2], 2, "KX582"), ([1, 2], 1, "KX582"), ([1, 9, 9, 9, 9, 2], 2, "KX582"), ([1, 9, 2], 1, "KX582"), ([1, 9, 9, 2], 3, "KX582"),
        ([1, 2, 9, 9], 1, "KX583"), ([1, 2, 9], 1, "KX583"), ([9, 9, 2], 1, "KX583"),
    ],
)  # fmt: skip
def test_places_that_do_not_fit_are_refused(row: list[int], images: int, expected: str) -> None:
    """Too few, too many, side by side, incomplete; cut off at the end, or where the start token belongs."""
    with pytest.raises(InvalidInputError) as error:
        place_images(prompt(row), [np.zeros((images, 4, 6, 3))], RECORD)
    assert code(error) == expected


def test_ids_bring_their_own_places() -> None:
    """KerasHub's arrays: images padded with zeros, indices with 0; what does not fit together is KX580."""
    rows = prompt([1, 5, 5, 2], [1, 2, 3])
    mask = np.zeros(rows.ids.shape, bool)
    mask[0, 1:3] = True
    inputs = {"images": np.ones((2, 1, 4, 6, 3)), "vision_mask": mask, "vision_indices": [[1, 2], [0, 0]]}
    found = read_placed_images(inputs, rows, RECORD)
    assert found is not None and [len(values) for values in found.pixel_values] == [1, 0]
    assert read_placed_images({**inputs, "images": np.ones((2, 0, 4, 6, 3))}, rows, RECORD) is None
    for wrong in ({"vision_mask": ~mask}, {"vision_indices": [[2, 3], [0, 0]]}, {"images": np.ones((2, 1, 6, 4, 3))}, {"vision_mask": None}):
        with pytest.raises(InvalidInputError) as error:
            read_placed_images({**inputs, **wrong}, rows, RECORD)
        assert code(error) == "KX580"
