# The one plan of what depends on what: a rule for each result of each model, generated from the declarations in
# cogvsr_utils/pipeline, then the pages, then the book. `make book` calls it. On a GPU or a cluster the same file runs:
# `snakemake --profile profiles/slurm --config model=Qwen/Qwen2.5-VL-7B-Instruct quantize=4bit profile=full -- results`,
# and with `data_root=/data shards=8 -- benchmarks` it asks copies of the benchmarks, one job a shard.
from pathlib import Path

from cogvsr_utils.dataset.benchmarks.benchmark import table_files
from cogvsr_utils.dataset.synth.build import built_stamp
from cogvsr_utils.paths import ROOT
from cogvsr_utils.pipeline.copies import Shard, copies_in, replies_path
from cogvsr_utils.pipeline.experiment import Experiment
from cogvsr_utils.pipeline.measured import MEASURED, is_measured
from cogvsr_utils.pipeline.plan import RESULTS, results_of, rules as rules_of
from cogvsr_utils.report.book import PAGES, page_options, page_results

OUT = "_build/book"
SETTINGS = {name: config.get(name) or default for name, default in
            (("quantize", None), ("profile", "light"), ("source", "synth"))}
if SETTINGS["source"] != "synth":
    SETTINGS["source"] = str(Path(SETTINGS["source"]).resolve())  # notebooks run in their own folder
MODELS = [str(Path(model).resolve()) if Path(model).is_dir() else model
          for model in (config.get("model") or "nano-internvl").split(",")]
EXPERIMENTS = [Experiment(model, **SETTINGS) for model in MODELS]
SHOWN = {name: page_results(name, EXPERIMENTS[0]) for name in PAGES}
KEPT = sorted(str(path) for path in Path("data").rglob("*") if path.is_file())  # tables, their stamps, weights
CODE = sorted(str(path) for path in Path("cogvsr_utils").rglob("*.py"))


def local(path):
    return os.path.relpath(path, ROOT)


SYNTH = local(built_stamp())


def data_of(experiment):
    return SYNTH if experiment.source == "synth" else local(experiment.source)


# The user's copies of the benchmarks, where config names their folder; each is asked in as many shards as it says.
DATA_ROOT, SHARDS = config.get("data_root"), int(config.get("shards") or 1)
COPIES = copies_in(DATA_ROOT) if DATA_ROOT else {}
PARTS = [(experiment, name, Shard(number, SHARDS))
         for experiment in EXPERIMENTS for name in COPIES for number in range(1, SHARDS + 1)]

WANTED = [job for experiment in EXPERIMENTS for job in rules_of(experiment, results_of(experiment))]
JOBS = {job.output: job for job in
        WANTED + [job for shown in SHOWN.values() for result, each in shown for job in rules_of(each, [result.name])]}


rule book:
    input:
        OUT + "/_build/html/index.html",


rule notebooks:
    input:
        expand(OUT + "/notebooks/{name}.ipynb", name=PAGES),


rule benchmarks:
    input:
        [local(replies_path(*part)) for part in PARTS],


rule results:
    input:
        [local(job.output) for job in WANTED],


rule measured:  # write data/measured/ from full runs
    input:
        [local(result.stamp_path(each)) for each in EXPERIMENTS for result in MEASURED
         if result.name in results_of(each)],
    shell:
        " && ".join(
            f"python -m cogvsr_utils.report.runner publish {page_options('A2_validation', each)}"
            for each in EXPERIMENTS
        )


rule synth:
    output:
        SYNTH,
    shell:
        "python -c 'from cogvsr_utils.dataset.synth.build import build_synth; build_synth()'"


for job in JOBS.values():

    rule:
        name:
            job.title
        input:
            data_of(job.experiment),
            [local(path) for path in job.inputs],
        output:
            update(local(job.output)),  # kept where a job is run again, since only the store knows whether it is valid
        params:
            result=job.result,
            options=job.experiment.options,
        resources:
            gpu=int(job.gpu),
            runtime=240,
        shell:
            "OMP_NUM_THREADS={threads} python -m cogvsr_utils.pipeline {params.result} {params.options} > /dev/null"


for experiment, name, shard in PARTS:

    rule:
        name:
            f"replies__{name}__{shard.number}_of_{shard.total}__" + "__".join(experiment.folder.parts[-3:])
        input:
            data_of(experiment),
            [local(RESULTS[each].stamp_path(experiment)) for each in ("rankings", "scaled")],
            [local(path) for path in table_files(COPIES[name])],
        output:
            update(local(replies_path(experiment, name, shard))),  # what is kept in it is not asked again
        params:
            name=name,
            root=str(Path(DATA_ROOT).resolve()),
            number=shard.number,
            options=experiment.options,
        resources:
            gpu=1,
            runtime=1440,
        shell:
            "OMP_NUM_THREADS={threads} python -m cogvsr_utils.pipeline.copies {params.name} {params.options}"
            " --data-root {params.root:q} --shard {params.number} --n-shards {SHARDS} > /dev/null"


for name, page in PAGES.items():

    rule:
        name:
            "page_" + name
        input:
            SYNTH,
            data_of(EXPERIMENTS[0]),
            f"notebooks/{name}.ipynb",
            CODE,
            KEPT,
            [local(result.stamp_path(experiment)) for result, experiment in SHOWN[name]],
        output:
            f"{OUT}/notebooks/{name}.ipynb",
        params:
            name=name,
            options=page_options(name, EXPERIMENTS[0]),
        threads: workflow.cores if page.timed else 1
        benchmark:
            f"_build/seconds/{name}.tsv"
        resources:
            gpu=1,  # most pages ask the model something small
            runtime=60,
        shell:
            "OMP_NUM_THREADS={threads} python -m cogvsr_utils.report.runner notebook {params.name} {params.options}"
            " --output {output}"


rule front:
    input:
        [] if is_measured(EXPERIMENTS[0], RESULTS["ablation_matrix"])
        else local(RESULTS["ablation_matrix"].stamp_path(EXPERIMENTS[0])),
        CODE,
        KEPT,
    output:
        "_build/front.png",
    params:
        options=page_options("05_interventions", EXPERIMENTS[0]),
    shell:
        "python -m cogvsr_utils.report.runner front {params.options} --output {output}"


rule pages:
    input:
        rules.notebooks.input,
        rules.front.output,
        sorted(str(path) for path in Path("book").rglob("*") if path.is_file()),
        "_config.yml", "_toc.yml", "data/README.md", "CHANGELOG.md",
    output:
        OUT + "/_build/html/index.html",
    shell:
        "mkdir -p {OUT}/data && cp -r book _config.yml _toc.yml CHANGELOG.md {OUT}/ && "
        "cp data/README.md {OUT}/data/ && "
        "cp {rules.front.output} {OUT}/book/_static/front.png && "
        "jupyter-book build {OUT} -W --keep-going --quiet"
