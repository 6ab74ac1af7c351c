import tempfile

import pandas as pd

from cogvsr_utils import answer, benchmark_scores, load_items, load_vlm
from cogvsr_utils.dataset.benchmarks.lookalikes import write_lookalikes

# With copies of your own: copies = {"3dsrbench": "/data/3dsrbench.csv", "vsr": "/data/vsr/random"}
copies = write_lookalikes(load_items("synth", split="C", limit=100), tempfile.mkdtemp())

vlm = load_vlm("nano-internvl")
scores = []
for name in ("vsr", "3dsrbench", "spatialeval", "spatial457"):
    items = load_items(f"{name}:{copies[name]}")
    scores.append(benchmark_scores(answer(vlm, items, progress=False), items))
table = pd.concat(scores).query("subset == 'all'")
columns = ["benchmark", "protocol", "scorer", "n", "n_unparsed", "accuracy", "ci_low", "ci_high", "chance", "majority"]
print(table[columns].to_string(index=False, float_format="%.2f"))
