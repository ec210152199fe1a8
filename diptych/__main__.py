"""``python -m diptych`` is the ``diptych`` command."""

from diptych.cli import app

if __name__ == "__main__":
    app()
