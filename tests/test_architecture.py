"""docs/architecture.md and its picture tell of the code that is here."""

from docs import architecture


def test_the_picture_is_what_the_script_draws_now():
    """If not: ``python -m docs.architecture``."""
    assert architecture.PICTURE.read_text() == architecture.svg()
