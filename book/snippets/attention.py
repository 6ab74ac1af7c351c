from cogvsr_utils import attention_map, load_items, load_vlm
from cogvsr_utils.report.head_figures import attention_figure

vlm, item = load_vlm("nano-internvl"), load_items("synth", split="C")[0]
seen = attention_map(vlm, item, 0, [(1, 23), (1, 1), (4, 14)])  # step 0, three heads as (layer, head)
attention_figure(item, seen.heads, {"attention": seen.weights}).savefig("attention.png", dpi=150)
