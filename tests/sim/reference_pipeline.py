"""A second, slow engine with a queue of batches, to hold the fast one against: plain lists, one turn of the loop at a time.

It reads like vLLM's engine core and scheduler, and shares nothing with autoscale.sim but the parameters.
"""

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass(eq=False)
class Job:
    index: int
    due_s: float
    prompt: int
    target: int
    prefix: int
    out: int = 0
    computed: int = 0
    blocks: int = 0
    placeholders: int = 0  # tokens of output in flight, with asynchronous scheduling
    in_flight: int = 0  # tokens of any kind
    stale: int = 0  # of them those scheduled before it was preempted
    eligible: int = 0
    prefills: bool = True
    sampled_s: float = 0.0  # when the batch with its newest token ends
    first_s: float = math.nan
    end_s: float = math.nan
    status: str = "in flight"

    @property
    def tokens(self):
        return self.prompt + self.out

    @property
    def over(self):
        return self.status != "in flight"


@dataclass
class Batch:
    end_s: float
    plan: list  # of (job, tokens, whether it brings a token of output)


@dataclass
class Core:
    """One engine. `shown` has (time, waiting, running, used blocks, generation, prompt tokens, ended) after every update."""

    p: object
    now_s: float = 0.0
    inbox: deque = field(default_factory=deque)
    waiting: list = field(default_factory=list)
    running: list = field(default_factory=list)
    batch_queue: deque = field(default_factory=deque)
    finished_ids: bool = False
    current_step: int = 0
    generation: int = 0
    prompts: int = 0
    completed: int = 0
    preempted_s: list = field(default_factory=list)
    shown: list = field(default_factory=list)

    def __post_init__(self):
        self.free = self.p.num_blocks - 1
        self.stage_ends = [0.0] * self.p.pipeline_stages
        self.batch_queue_size = self.p.pipeline_stages + (1 if self.p.async_scheduling else 0)

    def ceil_blocks(self, tokens):
        return -(-tokens // self.p.block_size)

    def allocate(self, job, tokens):
        more = max(self.ceil_blocks(tokens) - job.blocks, 0)
        if more > self.free:
            return False
        self.free -= more
        job.blocks += more
        return True

    def release(self, job):
        self.free += job.blocks
        job.blocks = 0

    def preempt(self):
        job = self.running.pop()
        self.release(job)
        job.computed, job.placeholders, job.prefills = 0, 0, True
        job.stale = job.in_flight
        self.waiting.insert(0, job)
        self.preempted_s.append(self.now_s)
        return job

    def schedule_running(self, plan, budget):
        """Tokens for what runs; returns the budget that is left, and whether something was preempted."""
        i, preempted = 0, False
        while i < len(self.running) and budget > 0:
            job = self.running[i]
            if job.placeholders > 0 and job.computed + 2 - job.placeholders >= job.prompt + job.target:
                i += 1
                continue
            if self.current_step < job.eligible:
                i += 1
                continue
            tokens = min(job.tokens + job.placeholders - job.computed, budget)
            if tokens == 0:
                i += 1
                continue
            fits = self.allocate(job, job.computed + tokens)
            while not fits:
                preempted = True
                if self.preempt() is job:
                    break
                fits = self.allocate(job, job.computed + tokens)
            if not fits:
                break
            plan.append((job, tokens))
            budget -= tokens
            i += 1
        return budget, preempted

    def schedule_waiting(self, plan, budget):
        skipped = []
        while self.waiting and budget > 0 and len(self.running) < self.p.max_num_seqs:
            job = self.waiting[0]
            if job.stale:
                skipped.append(self.waiting.pop(0))
                continue
            if self.ceil_blocks(job.tokens) > self.free:
                break
            job.computed = min(job.prefix, job.tokens - 1) // self.p.block_size * self.p.block_size
            tokens = min(job.tokens - job.computed, budget)
            self.allocate(job, job.computed + tokens)
            self.running.append(self.waiting.pop(0))
            plan.append((job, tokens))
            budget -= tokens
        self.waiting[:0] = skipped

    def schedule(self):
        self.current_step += 1
        self.finished_ids = False
        plan = []
        budget, preempted = self.schedule_running(plan, self.p.max_num_batched_tokens)
        if not preempted:
            self.schedule_waiting(plan, budget)
        return self.execute(plan)

    def execute(self, plan):
        """Send a batch through the stages, and note what the scheduler then knows of its requests."""
        p = self.p
        if not plan:
            return Batch(max(self.now_s, self.stage_ends[-1]), [])
        kv = sum(job.computed + tokens for job, tokens in plan)
        chunks = [(job.computed, tokens) for job, tokens in plan if job.prefills]
        prefill = sum(tokens for _, tokens in chunks)
        pairs = sum(before + k + 1 for before, tokens in chunks for k in range(tokens))
        decoding = len(plan) - len(chunks)
        hidden = p.compute_share * min(decoding + prefill, p.ridge_tokens)
        stage_s = (
            p.base_s
            + p.per_sequence_s * len(plan)
            + p.per_kv_token_s * kv
            + p.per_prefill_token_s * (prefill + p.compute_share * decoding - hidden)
            + p.experts_s * (1 - (1 - p.expert_share) ** (decoding + prefill))
            + p.per_prefill_pair_s * pairs
            + (p.long_reduce_s if decoding + prefill >= p.long_reduce_tokens else 0)
        )
        end_s = max([self.now_s, *(job.sampled_s for job, _ in plan if not job.prefills)])
        for j in range(p.pipeline_stages):
            end_s = max(end_s, self.stage_ends[j]) + stage_s
            self.stage_ends[j] = end_s
        scheduled = []
        for job, tokens in plan:
            job.computed += tokens
            job.in_flight += tokens
            samples = job.computed == job.tokens + job.placeholders
            if samples:
                job.prefills, job.sampled_s = False, end_s
                if p.async_scheduling:
                    job.placeholders += 1
                    job.eligible = self.current_step + p.pipeline_stages
            scheduled.append((job, tokens, samples))
        return Batch(end_s, scheduled)

    def update_from_output(self, batch):
        for job, tokens, samples in batch.plan:
            job.in_flight -= tokens
            stale = job.stale > 0
            if stale:
                job.stale -= tokens
            if job.over or not samples:
                continue
            job.out += 1
            self.generation += 1
            if self.p.async_scheduling and not stale:
                job.placeholders -= 1
            if math.isnan(job.first_s):
                job.first_s = self.now_s
                self.prompts += job.prompt
            if job.out == job.target:
                self.completed += 1
                self.finish(job, "ok")
        used = self.p.num_blocks - 1 - self.free
        self.shown.append(
            (
                self.now_s,
                len(self.waiting),
                len(self.running),
                used,
                self.generation,
                self.prompts,
                self.completed,
            )
        )
        assert self.free + sum(job.blocks for job in self.running) == self.p.num_blocks - 1

    def finish(self, job, status):
        job.status, job.end_s = status, self.now_s
        self.finished_ids |= job not in self.inbox
        for jobs in (self.waiting, self.running, self.inbox):
            if job in jobs:
                jobs.remove(job)
        self.release(job)

    def has_requests(self):
        return bool(self.waiting or self.running) or self.finished_ids

    def step_with_batch_queue(self):
        """One turn; False when it would block, or has nothing to do."""
        if self.has_requests():
            batch = self.schedule()
            self.batch_queue.append(batch)
            if len(self.batch_queue) < self.batch_queue_size and (batch.plan or self.has_requests()):
                return True
        elif not self.batch_queue:
            return False
        if self.batch_queue[0].end_s > self.now_s:
            return False
        self.update_from_output(self.batch_queue.popleft())
        return True

    def run(self, until_s):
        """Everything before `until_s`."""
        while True:
            if self.batch_queue:
                if self.batch_queue[0].end_s >= until_s:
                    return
                self.now_s = self.batch_queue[0].end_s
                self.update_from_output(self.batch_queue.popleft())
            elif not self.inbox or self.inbox[0].due_s + self.p.request_overhead_s >= until_s:
                return
            else:
                self.now_s = self.inbox[0].due_s + self.p.request_overhead_s
            while self.inbox and self.inbox[0].due_s + self.p.request_overhead_s <= self.now_s:
                self.waiting.append(self.inbox.popleft())
            while self.step_with_batch_queue():
                pass

    @property
    def load(self):
        held = len(self.inbox) + len(self.waiting) + len(self.running)
        return 4 * (held - len(self.running)) + len(self.running)


def serve(params, jobs, aborts=()):
    """One replica serves `jobs` (in due order), `aborts` holds (time, index); returns its engines."""
    cores = [Core(params) for _ in range(params.data_parallel)]
    where = {}
    deadlines = [(job.due_s + params.request_timeout_s, 1, job.index, "timeout") for job in jobs]
    events = [(at_s, 0, index, "cancelled") for at_s, index in aborts]
    events += [(job.due_s, 2, job.index, "arrives") for job in jobs]
    for at_s, _, index, what in sorted(events + deadlines):
        for core in cores:
            core.run(at_s)
        job = jobs[index]
        if what == "arrives":
            where[index] = min(cores, key=lambda core: core.load)
            where[index].inbox.append(job)
        elif index in where and not job.over:
            where[index].now_s = max(at_s, where[index].now_s) if math.isfinite(at_s) else at_s
            where[index].finish(job, what)
    for core in cores:
        core.run(math.inf)
    return cores
