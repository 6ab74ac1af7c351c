"""The paper's protocol as arguments, as far as it is known.

READING      of ``capture``: the k = 3 most important tokens of an answer, where they stand
PROBE        of ``FunctionProbe``: inputs as they are, Adam at 1e-4, one step of a chain at a time
SCOPE        of ``mask``: the last position, at each token that is generated
THRESHOLD    importance above which a head is counted as functional

Source: arXiv 2603.20662; where it is silent, CogVision (arXiv 2512.10300) and the code of arXiv 2512.10978. What these
arguments cannot follow: there a language model picks the important tokens, here the least expected are taken.

>>> from cogvsr_utils.analysis.joint_probe import FunctionProbe
>>> FunctionProbe(**PROBE).lr
0.0001
"""

READING = {"position": "answer_content", "content_tokens": 3, "at": "reads"}
PROBE = {"standardize": False, "lr": 1e-4, "batch_size": 1}
SCOPE = "answer"
THRESHOLD = 0.001
