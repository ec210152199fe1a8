"""The ``diptych`` command: one subcommand for each thing that a person does with Diptych."""

from __future__ import annotations

import typer

from diptych.cli import (
    artifacts,
    bulk,
    collection,
    data,
    evaluate,
    index,
    keys,
    measure,
    plan,
    quantise,
    run,
    search,
    serve,
    train,
)

app = typer.Typer(
    name="diptych",
    help="Find pictures by words and words by pictures: train, publish, index, serve, ask.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.command("export")(train.export)
app.command("import-clip")(train.import_clip)
app.command("quantise")(quantise.quantise)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(measure.app, name="measure")
app.add_typer(artifacts.app, name="artifacts")
app.command("publish")(artifacts.publish)
index.app.command("bulk")(bulk.bulk)
app.add_typer(index.app, name="index")
app.add_typer(collection.app, name="collection")
app.add_typer(search.app, name="search")
app.add_typer(serve.app, name="serve")
app.add_typer(keys.app, name="keys")
app.command("plan")(plan.plan)
app.command("up")(run.up)
app.command("smoke")(run.smoke)
