"""A second, slow engine of one stage to hold the fast one against: one step at a time, in plain lists, as the scheduler is
described.

It shares nothing with autoscale.sim but the parameters.
"""

import math
from dataclasses import dataclass, field


@dataclass
class Job:
    index: int
    due_s: float
    prompt: int
    target: int
    prefix: int
    out: int = 0
    computed: int = 0
    blocks: int = 0
    first_s: float = math.nan
    last_s: float = math.nan
    fresh: bool = True  # its next token is not known yet: the step computes prompt, not one output token
    status: str = "in flight"

    @property
    def tokens(self):
        return self.prompt + self.out


@dataclass
class Engine:
    """One engine; `run` serves all jobs. `shown` collects (time, waiting, running, used blocks) after every step."""

    p: object
    now_s: float = 0.0
    waiting: list = field(default_factory=list)
    running: list = field(default_factory=list)
    preemptions: int = 0
    shown: list = field(default_factory=list)
    steps: int = 0

    def __post_init__(self):
        self.free = self.p.num_blocks - 1
        self.late_blocks = self.late_seats = 0
        self.candidates = 0

    def ceil_blocks(self, tokens):
        return -(-tokens // self.p.block_size)

    def grow(self, job, tokens):
        """Give `job` the blocks for its first `tokens` tokens, if they are free."""
        more = self.ceil_blocks(tokens) - job.blocks
        if more > self.free:
            return False
        self.free -= max(more, 0)
        job.blocks += max(more, 0)
        return True

    def preempt(self):
        victim = self.running.pop()
        self.free += victim.blocks
        victim.blocks = victim.computed = 0
        victim.fresh = True
        self.waiting.insert(0, victim)
        self.preemptions += 1
        return victim

    def schedule(self, candidates):
        """Tokens to compute per job in this step: a list of (job, tokens)."""
        budget = self.p.max_num_batched_tokens
        plan, preempted, i = [], False, 0
        while i < len(self.running):
            job = self.running[i]
            tokens = min(job.tokens - job.computed, budget)
            victim = None
            while not self.grow(job, job.computed + tokens):
                preempted, victim = True, self.preempt()
                if victim is job:
                    break
            if victim is job:
                break
            plan.append((job, tokens))
            budget -= tokens
            i += 1
        while (
            not preempted
            and candidates > 0
            and budget > 0
            and len(self.running) + self.late_seats < self.p.max_num_seqs
        ):
            job = self.waiting[0]
            if self.ceil_blocks(job.tokens) > self.free:
                break
            job.computed = min(job.prefix, job.tokens - 1) // self.p.block_size * self.p.block_size
            tokens = min(job.tokens - job.computed, budget)
            self.grow(job, job.computed + tokens)
            self.running.append(self.waiting.pop(0))
            plan.append((job, tokens))
            budget -= tokens
            candidates -= 1
        return plan

    def step_s(self, plan):
        p = self.p
        kv = sum(job.computed + tokens for job, tokens in plan)
        chunks = [(job.computed, tokens) for job, tokens in plan if job.fresh]
        prefill = sum(tokens for _, tokens in chunks)
        pairs = sum(before + k + 1 for before, tokens in chunks for k in range(tokens))
        decoding = len(plan) - len(chunks)
        hidden = p.compute_share * min(decoding + prefill, p.ridge_tokens)
        return (
            p.base_s
            + p.per_sequence_s * len(plan)
            + p.per_kv_token_s * kv
            + p.per_prefill_token_s * (prefill + p.compute_share * decoding - hidden)
            + p.experts_s * (1 - (1 - p.expert_share) ** (decoding + prefill))
            + p.per_prefill_pair_s * pairs
            + (p.long_reduce_s if decoding + prefill >= p.long_reduce_tokens else 0)
        )

    def run(self, jobs, until_s=math.inf):
        """Serve `jobs` (in due order), each entering request_overhead_s after it is due; steps ending before until_s."""
        p = self.p
        coming = list(jobs)
        while True:
            if not self.waiting and not self.running:
                if not coming:
                    return
                self.now_s = max(self.now_s, coming[0].due_s + p.request_overhead_s)
                self.candidates = 0
            while coming and coming[0].due_s + p.request_overhead_s <= self.now_s:
                self.waiting.append(coming.pop(0))
            known = min(self.candidates, len(self.waiting)) if p.async_scheduling else len(self.waiting)
            plan = self.schedule(known)
            self.free += self.late_blocks
            self.late_blocks = self.late_seats = 0
            if not plan:
                plan = self.schedule(len(self.waiting))
            self.candidates = len(self.waiting)
            end_s = self.now_s + self.step_s(plan)
            if end_s >= until_s:
                return
            self.steps += 1
            for job, tokens in plan:
                job.computed += tokens
                if job.computed < job.tokens:
                    continue
                job.fresh = False
                job.out += 1
                if math.isnan(job.first_s):
                    job.first_s = end_s
                if job.out == job.target:
                    job.last_s, job.status = end_s, "ok"
                    self.running.remove(job)
                    if p.async_scheduling:
                        self.late_blocks += job.blocks
                        self.late_seats += 1
                    else:
                        self.free += job.blocks
                    job.blocks = 0
            self.now_s = end_s
            used = p.num_blocks - 1 - self.free - self.late_blocks
            self.shown.append((end_s, self.candidates, len(self.running), used))
            assert self.free + self.late_blocks + sum(j.blocks for j in self.running) == p.num_blocks - 1
