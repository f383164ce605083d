import time

import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_edge.evaluation.labels import utm_positions_m
from progeo_train.config import PlacesConfig
from progeo_train.data.image_table import ImageNames
from progeo_train.data.utm_folder import number_fields, read_utm_folder, read_utm_names

PLACES = PlacesConfig(min_images_per_class=1, groups=1000)


def sf_xl_name(east, north, heading, zone=10, note=""):
    return f"@{east:.2f}@{north:.2f}@{zone}@S@037.75@-122.44@pano@0@{heading}@@@@201706@{note}@.jpg"


def make_folder(tmp_path, names):
    root = tmp_path / "images"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def by_definition(name, field):
    """One name at a time, as the runtime reads positions."""
    fields = name.rsplit("/", 1)[-1].split("@")
    try:
        value = float(fields[field])
    except (IndexError, ValueError):
        return np.nan
    return value if np.isfinite(value) else np.nan


STRANGE = [
    "plain.jpg",
    "@1@2.jpg",
    "@1@2@.jpg",
    "@ 548 @ 4178.5 @ 10 @ S @@@@@ 90 @.jpg",
    "a@b/c@d/@3@4@5@6@7@8@9@10@11@12@.jpg",
    "a@99@98/none.jpg",
    "@@@@@@@@@@@@.jpg",
    "@abc@1e3@10@S@x@y@p@t@north@.jpg",
    "@nan@inf@61@S@x@y@p@t@-inf@.jpg",
    "@-12.5@+3@0@S@x@y@p@t@-30@.jpg",
    "@" + "1" * 40 + "@7@1@S@x@y@p@t@1@.jpg",
    "é@5@6@7@8@9@1@2@3@400@.jpg",
    "@1@2@3@4@5@6@7@8@9.jpg",
    "@1@2@3@4@5@6@7@8@9",
    "x/@0@0@0@0@0@0@0@0@0@.jpg",
]


@pytest.mark.parametrize("field", [1, 2, 3, 9])
def test_fields_are_read_as_one_by_one(field):
    expected = [by_definition(name, field) for name in STRANGE]
    expected = [np.nan if abs(value) > 1e30 else value for value in expected]  # 40 digits are no coordinate
    assert np.array_equal(number_fields(ImageNames.from_names(STRANGE), field), expected, equal_nan=True)


def test_names_without_any_sign_or_none_at_all():
    assert np.isnan(number_fields(ImageNames.from_names(["a.jpg", "b/c.jpg"]), 1)).all()
    assert len(number_fields(ImageNames.from_names([]), 1)) == 0


def test_positions_equal_the_runtimes():
    rng = np.random.default_rng(0)
    names = [sf_xl_name(e, n, 90) for e, n in rng.uniform(0, 1e6, (50, 2))]
    table = read_utm_names(None, ImageNames.from_names(names))  # type: ignore[arg-type]
    assert np.array_equal(np.stack([table.east_m, table.north_m], axis=1), utm_positions_m(names))


def test_folder_becomes_table_and_groups(tmp_path):
    names = [sf_xl_name(5, 5, 10), sf_xl_name(6, 6, 370), "sub/" + sf_xl_name(55, 5, 10), sf_xl_name(5, 5, 10, zone=11)]
    table, groups = read_utm_folder(make_folder(tmp_path, names), PLACES, None)
    assert sorted(table.names) == sorted(names)
    assert set(table.heading_deg) == {10.0}
    classes = {frozenset(table.names[row] for row in groups.members(0, k)) for k in range(groups.num_classes(0))}
    assert classes == {frozenset(names[:2]), frozenset(names[2:3]), frozenset(names[3:])}
    assert sorted(table.region) == [10, 10, 10, 11]


def test_images_without_heading_are_left_out_and_counted(tmp_path, caplog):
    root = make_folder(tmp_path, [sf_xl_name(5, 5, 10), sf_xl_name(6, 5, ""), "no position.jpg"])
    table, groups = read_utm_folder(root, PLACES, None)
    assert len(table) == 3
    assert groups.num_images(0) == 1
    assert "2 of 3 images have no heading and are left out" in caplog.text
    assert "1 of 3 images have no UTM position" in caplog.text


def test_no_heading_at_all_is_one_clear_error(tmp_path):
    root = make_folder(tmp_path, [sf_xl_name(5, 5, ""), sf_xl_name(6, 5, "")])
    with pytest.raises(SourceError, match=r"none of 2 images has a heading.*@6.00@.*|.*@5.00@.*places.heading_deg=360"):
        read_utm_folder(root, PLACES, None)
    by_position = PlacesConfig(min_images_per_class=1, heading_deg=360, heading_stride=1)
    assert read_utm_folder(root, by_position, None)[1].num_images(0) == 2


def test_no_position_at_all_is_one_clear_error(tmp_path):
    root = make_folder(tmp_path, ["a.jpg", "b.jpg"])
    with pytest.raises(SourceError, match=r"none of 2 images has a UTM position in its name, such as a.jpg; expected"):
        read_utm_folder(root, PLACES, None)


def test_two_hundred_thousand_names_take_moments():
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1e6, (200_000, 3)).tolist()
    names = ImageNames.from_names(f"part/{sf_xl_name(e, n, h)}" for e, n, h in rows)
    start = time.perf_counter()
    read_utm_names(None, names)  # type: ignore[arg-type]
    assert time.perf_counter() - start < 5
