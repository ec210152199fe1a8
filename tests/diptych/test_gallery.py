"""The gallery: real photographs out of installed wheels, each with captions of its own."""

import hashlib
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo

from diptych import gallery

PHOTOS = gallery.photos()
DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "gradio": "gradio"}


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_a_photo_is_a_real_picture_that_a_wheel_ships(photo: gallery.Photo) -> None:
    with Image.open(photo.path) as image:
        image.load()
        assert min(image.size) >= 100
    shipped = {
        Path(str(file.locate())).resolve() for name in DISTRIBUTIONS.values() for file in metadata.files(name) or ()
    }
    assert photo.path.resolve() in shipped


def test_captions_are_five_each_and_tell_the_photos_apart() -> None:
    captions = [caption for photo in PHOTOS for caption in photo.captions]
    assert all(len(photo.captions) == 5 for photo in PHOTOS)
    assert all(caption.strip() == caption and caption for caption in captions)
    assert len(set(captions)) == len(captions)


def test_no_photo_is_there_twice() -> None:
    assert len(PHOTOS) >= 14
    assert len({photo.name for photo in PHOTOS}) == len(PHOTOS)
    assert len({hashlib.sha256(photo.path.read_bytes()).digest() for photo in PHOTOS}) == len(PHOTOS)


def test_every_example_has_its_photo() -> None:
    assert len(gallery.EXAMPLES) == len(gallery.EXPECTED) == 5
    assert set(gallery.EXPECTED) <= {photo.name for photo in PHOTOS}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.gallery.util.find_spec", lambda _: None)
    with pytest.raises(gallery.GalleryError, match=r"skimage .*diptych\[gallery\]"):
        gallery.photos()


def test_things_are_labelled_with_photos_of_the_gallery() -> None:
    named = gallery.things()
    assert len({thing.name for thing in named}) == len(named)
    assert all(thing.photos and thing.photos <= {photo.name for photo in PHOTOS} for thing in named)
    # Every photo shows something that has a name.
    assert set().union(*(thing.photos for thing in named)) == {photo.name for photo in PHOTOS}


def test_the_names_that_are_said_to_be_imagenets_are() -> None:
    info = ImageNetInfo()
    described = (str(info.index_to_description(index)) for index in range(1000))
    classes = {name.strip().lower() for names in described for name in names.split(",")}
    for thing in gallery.things():
        assert (thing.name.lower() in classes) == thing.imagenet, thing.name
