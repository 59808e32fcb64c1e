"""PASCAL VOC annotations and split lists."""

import numpy as np
import pytest

from hemolens.errors import UserError
from hemolens.io.voc import read_voc_annotation, read_voc_split

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def write(path, body, root="annotation"):
    path.write_text(f"<{root}><filename>a.jpg</filename>{body}</{root}>")
    return path


def test_boxes_are_kept_as_written(tmp_path):
    body = SIZE + OBJECT.format("RBC", 1, 2, 30, 40) + OBJECT.format(" WBC ", "3.5", 4, 64, 48)
    annotation = read_voc_annotation(write(tmp_path / "a.xml", body))
    assert (annotation.filename, annotation.width, annotation.height) == ("a.jpg", 64, 48)
    assert annotation.names == ("RBC", "WBC")
    assert annotation.boxes.dtype == np.float32
    np.testing.assert_array_equal(annotation.boxes, [[1, 2, 30, 40], [3.5, 4, 64, 48]])


def test_no_objects_and_no_size(tmp_path):
    annotation = read_voc_annotation(write(tmp_path / "a.xml", ""))
    assert annotation.boxes.shape == (0, 4) and annotation.names == ()
    assert annotation.width is None and annotation.height is None
    zero = read_voc_annotation(write(tmp_path / "b.xml", SIZE.replace("64", "0")))
    assert zero.width is None and zero.height == 48


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (OBJECT.format("", 1, 2, 3, 4), r"object 1 has no <name>"),
        (SIZE + OBJECT.format("RBC", 1, 2, "wide", 4), r"object 1: <bndbox><xmax> is 'wide'"),
        (OBJECT.format("RBC", 1, 2, 3, 4) + OBJECT.format("RBC", 1, 2, 3, "nan"), r"object 2: .*<ymax>"),
        ("<object><name>RBC</name></object>", r"<xmin> is None"),
        ("<size><width>big</width></size>", r"<width> is 'big'"),
    ],
)
def test_broken_content_is_named(tmp_path, body, message):
    with pytest.raises(UserError, match=rf"a\.xml: .*{message}"):
        read_voc_annotation(write(tmp_path / "a.xml", body))


def test_not_an_annotation(tmp_path):
    with pytest.raises(UserError, match=r"gone\.xml: no such annotation"):
        read_voc_annotation(tmp_path / "gone.xml")
    with pytest.raises(UserError, match=r"root element is <kml>"):
        read_voc_annotation(write(tmp_path / "a.xml", "", root="kml"))
    for content in (b"", b"<annotation><object>", b"\xff\xfe\x00"):
        (tmp_path / "b.xml").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.xml: not a valid XML file"):
            read_voc_annotation(tmp_path / "b.xml")


def test_split_lists(tmp_path):
    folder = tmp_path / "ImageSets" / "Main"
    with pytest.raises(UserError, match=r"train\.txt: no such split list; write one image id a line"):
        read_voc_split(tmp_path, "train")
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("b\r\n\n a \n")
    assert read_voc_split(tmp_path, "train") == ["b", "a"]
    with pytest.raises(UserError, match=r"training\.txt: no such split list; choose one of train"):
        read_voc_split(tmp_path, "training")
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.txt: the split list is empty"):
        read_voc_split(tmp_path, "empty")
    (folder / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(UserError, match=r"twice\.txt: 1 ids are listed more than once, first a"):
        read_voc_split(tmp_path, "twice")
