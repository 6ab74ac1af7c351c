# The one plan of what depends on what. `make book` calls it; on a cluster the same file runs with
# `snakemake --executor slurm --config model=Qwen/Qwen2.5-VL-7B-Instruct quantize=4bit -- notebooks`.
from cogvsr_utils.paths import ROOT, results_folder

MODEL = config.get("model") or "nano-internvl"
QUANTIZE = config.get("quantize") or ""
PROFILE = config.get("profile") or "light"
OUT = "_build/book"
FRONT = results_folder(MODEL, QUANTIZE or None, PROFILE).relative_to(ROOT) / "front.png"
CHAIN = ["01_dataset", "02_capture", "03_probing", "04_scarcity", "05_interventions", "06_families", "A2_validation",
         "A1_speed"]
PACKAGE = glob_wildcards("cogvsr_utils/{module,((kinds|stages)/)?[a-z_0-9]+}.py").module
PROSE = glob_wildcards("book/{page}.md").page


def parameters(name):
    given = {"model": MODEL, "quantize": QUANTIZE, "profile": PROFILE}
    given = {"01_dataset": {}, "06_families": {"profile": PROFILE}}.get(name, given)
    return " ".join(f"-p {key}={value}" for key, value in given.items())


rule book:
    input:
        OUT + "/_build/html/index.html",


rule notebooks:
    input:
        expand(OUT + "/notebooks/{name}.ipynb", name=CHAIN),


# Each notebook keeps its results under results/ and picks up those of the one before, so they run in order.
for number, name in enumerate(CHAIN):

    rule:
        name:
            "run_" + name
        input:
            f"notebooks/{name}.ipynb",
            expand("cogvsr_utils/{module}.py", module=PACKAGE),
            [f"{OUT}/notebooks/{CHAIN[number - 1]}.ipynb"] if number else [],
        output:
            f"{OUT}/notebooks/{name}.ipynb",
        params:
            settings=parameters(name),
            name=name,
        threads: workflow.cores
        resources:
            runtime=240,
        shell:
            "python -m cogvsr_utils.run {params.name} {params.settings} --output {output}"


rule pages:
    input:
        rules.notebooks.input,
        expand("book/{page}.md", page=PROSE),
        "_config.yml", "_toc.yml", "data/README.md", "CHANGELOG.md", "book/references.bib", "book/_static/custom.css",
    output:
        OUT + "/_build/html/index.html",
    shell:
        "mkdir -p {OUT}/data && cp -r book _config.yml _toc.yml CHANGELOG.md {OUT}/ && cp data/README.md {OUT}/data/ && "
        "cp {FRONT} {OUT}/book/_static/front.png && "
        "jupyter-book build {OUT} -W --keep-going --quiet"
