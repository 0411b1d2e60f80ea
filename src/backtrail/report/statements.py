"""What the papers claim, in words and with its place, by key. How each claim is judged stands in `claims.py`, in the same order.

Apart from it, so that who only asks which claims there are loads no tables.
"""

SFD_TABLES, DISBACK_PATH = "SFD, Tables 2 and 3", "DisBack, Algorithm 1"
MISMATCH = ("DisBack's mismatch is lower than Diff-Instruct's throughout training", "DisBack, Fig. 4")
STATEMENTS: dict[str, tuple[str, str]] = {
    "sfd-v-beats-dpmpp": ("SFD-v beats DPM-Solver++(3M) at every NFE from 2 to 5", SFD_TABLES),
    "sfd-beats-dpmpp": ("SFD beats DPM-Solver++(3M) at the NFE it is trained for", SFD_TABLES),
    "sfd-v-beats-sfd": ("SFD-v beats SFD at every NFE that both are trained for", SFD_TABLES),
    "quality-rises-with-nfe": ("SFD-v improves with every further NFE it is trained for", SFD_TABLES),
    "sfd-beats-algorithm-1": ("SFD beats trajectory distillation (Algorithm 1)", "SFD, Algorithm 1"),
    "disback-beats-diff-instruct-curve": ("DisBack beats Diff-Instruct at equal total cost, recording included", "DisBack, Fig. 1"),
    "disback-beats-diff-instruct": ("DisBack's finished student beats Diff-Instruct's", "DisBack, Fig. 1"),
    "disback-lower-mismatch-raw": MISMATCH,
    "disback-lower-mismatch-excess": MISMATCH,
    "disback-lower-mismatch-difference": MISMATCH,
    "path-fits-student": ("Along DisBack's recorded path the loss on the initial student's samples falls at every node", DISBACK_PATH),
    "path-leaves-data": ("Along DisBack's recorded path the loss on data rises at every node", DISBACK_PATH),
}
