"""``appliance models``: what models.lock names, how it comes to be, and what is on disk."""

from __future__ import annotations

import typer

from appliance.cli.models import compare, keep, look, make, pinning, run

app = typer.Typer(help="The models of models.lock: pin, build, check and choose them.", no_args_is_help=True)
app.command("ls")(look.ls)
app.command("show")(look.show)
app.command("diff")(look.diff)
app.command("compare")(compare.compare)
app.command("verify")(look.verify)
app.command("add")(pinning.add)
app.command("fetch")(make.fetch)
app.command("build")(make.build)
app.command("upgrade")(make.upgrade)
app.command("import")(pinning.import_file)
app.command("use")(keep.use)
app.command("rm")(keep.rm)
app.command("gc")(keep.gc)
app.command("ps")(run.ps)
app.command("plan")(run.plan)
app.command("load")(run.load)
app.command("unload")(run.unload)
app.command("pin")(run.pin)
app.command("unpin")(run.unpin)
app.command("default")(run.default)
