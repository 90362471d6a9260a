"""What tunes a recommendation, in one place: how much is tried, how much of it is believed, how careful the choice is.

Frozen tables, read where they act (WATCHING, of production, in watching.py): CHOOSING (choice/: seeds, steps, margins), REFINING and DOUBTING (model/: the fit
of the engine, and what the runs leave open about it). Shares are of 1, times in s; "of all requests" is a share of those
of the whole traffic. Nothing here comes from a run, a profile or a user.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choosing:
    """Effort and caution of the choice. Each value with what it yields."""

    # --- what is tried ---
    # Waiting targets of a line: steps of 14 to 67 %, since a queue grows by itself once it is there
    waiting_targets: tuple[float, ...] = (
        0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 56, 80, 112, 160,
    )  # fmt: skip
    # Queue targets beside another signal: an early alarm, a usual one, a late one
    waiting_in_pairs: tuple[float, ...] = (1, 5, 10)
    # How long KEDA waits after the last active poll before the last replica goes, where it may go at all
    zero_after_s: tuple[int, ...] = (180, 300, 600, 900, 1800, 3600)
    # ... and a shorter pollingInterval than the usual 15 s: the first request waits for the poll, too
    short_polling_s: int = 5
    # Thresholds of latency signals in shares of the SLO's bound, and the longest traffic (s) for trials that take so long
    latency_shares: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.8)
    latency_most_s: float = 21_600.0
    # Factor between the other targets of a line: the loosest that holds is met to 6 %
    step: float = 1.06
    # Powers of the step around the signal at capacity: from a fifth of it to twice as much
    tightest_power: int = -28
    loosest_power: int = 12
    # Of what a signal can reach, where targets end: the HPA acts at 1.1 times its target
    fires: float = 0.85
    # Of the standing fleet, that an HPA keeps at least, and by which maxReplicas exceeds it when nobody says otherwise
    minima: tuple[float, ...] = (0.25, 0.5, 0.75)
    spare: float = 0.25
    # Standing replicas that a search goes up to, and beyond the first that held on its seeds, of which one must hold on all
    fleet_limit: int = 256
    fleet_beyond: int = 8
    # Of all requests: a standing fleet that breaks the SLO by less on one seed may hold on others, and is looked at
    nearly: float = 0.005
    # Estimated s of a trial up to which traffic is searched from more beginnings, and around what was found
    wide_s: float = 0.05
    around_s: float = 0.1

    # --- how it is searched ---
    # Lines raced and settings judged side by side, however many processes: the answer must not depend on that
    at_once: int = 4
    finalists: int = 2
    # Families whose behaviours are searched when the search is wide; else the best one's only
    leaders: int = 2
    # Rounds around the best setting at most, and the share of its cost for which another one is worth it
    refinements: int = 2
    gain: float = 0.01
    # Settings within this of the cheapest are not told apart: so much dearer a line may be and still race
    cost_slack: float = 0.01

    # --- seeds ---
    # Short traffic is searched over several seeds at once, as many as take this long, and over so many at most
    panel_s: float = 0.3
    panel_most: int = 3
    # ... the hardest, under which the standing fleet keeps least, of so many times as many
    pool: int = 5
    # First seed of panels; those of judging lie below, those of confirming above
    panel_seeds: int = 1000
    # The same where the fleet may go to zero, and searches at most, each on a day more that broke the best of the one before
    night_seeds: int = 2001
    night_rounds: int = 6
    # Of all requests: a setting that missed by more in the search is no guess worth a look
    by_far: float = 0.015
    # Standard deviations between seeds that the search asks for beyond the SLO: first, and once nothing found held
    caution: tuple[float, ...] = (0.3, 1.0)
    night_caution: tuple[float, ...] = (0.0, 0.3)  # at zero: days that break what is found are learned
    # Seeds that what competes for the choice is judged over, of long traffic fewer; after so many the hopeless are given up
    judging_seeds: tuple[int, int] = (8, 4)
    first_look: int = 2
    # Settings looked at for each that may be judged in full
    looks: int = 4
    # Settings judged in full at most for a choice, and for each signal alone
    judged_at_most: int = 16
    singles_at_most: int = 4
    # What may be the answer, and every row beside it, is judged over seeds of their own from this one on: so many at least,
    # as many as take this long, so many at most: of 64 none may fail where 95 % are promised, of 153 three, of 311 nine
    own_seeds: int = 5001
    own_at_least: int = 64
    confirm_s: float = 8.0
    own_at_most: int = 311
    # ... of long traffic, whose every seed has many days, so many
    own_of_many_days: int = 16
    # HPAs that the choice is set beside see the first of them, as many as take this long for each, so many at least
    beside_s: float = 5.0
    beside_at_least: int = 16
    # So many of them at a time; the first of them run to the end, so that every row has figures
    seeds_at_once: int = 8
    # Rounds of confirming at most, each of up to `plateau` settings; trials of a look around, in sets of own seeds, and its seeds
    confirmed_at_most: int = 20
    around_at_most: int = 8
    rival_seeds: int = 6
    # One-sided: how sure it is that the promise is kept; also of the intervals of figures (two-sided)
    confidence: float = 0.95

    # --- what is promised ---
    # Share of the periods (days, or traffic that is shorter) that keep the SLO, and the most that can be asked for:
    # 299 periods without a failure show 99 %
    days_kept: float = 0.95
    days_kept_most: float = 0.99
    # The worst 5 % of the trials have, on average, at most so many times the breaches that the SLO allows
    worst_share: float = 0.05
    worst_overrun: float = 2.0

    # A rule of thumb that the choice is set beside: of the batch at the SLO's limit
    thumb: float = 0.8

    # --- plateaus ---
    # Settings that cost so much more than the cheapest are as cheap; so many of them have their neighbours judged
    alike: float = 0.03
    plateau: int = 3
    # A neighbour: a target by so much looser, traffic by so much more
    target_off: float = 0.10
    traffic_off: float = 0.05
    # Neighbours are judged over seeds from this one on: as many as all of them take this long, so many at least and most
    near_seeds: int = 301
    neighbours_s: float = 5.0
    neighbour_seeds: tuple[int, int] = (2, 6)
    # By how much traffic may grow and starts may last longer until the choice breaks: what is tried
    moves: tuple[float, ...] = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)

    # --- what comes next ---
    # Of all requests: about what one step of a target changes, at least; and so many steps are skipped at most
    a_step: float = 0.005
    most_steps: int = 4
    # What a tighter and a looser target cost relative to their neighbour, where it is not known
    dearer: float = 1.01
    cheaper: float = 0.99
    # Of the standing fleet's accelerator time, that autoscaling must save to be worth its risk
    saving: float = 0.02

    # --- the replica's speed, and the target's interval ---
    # Of a 95 % interval's half width lies the end that is passed with 5 % chance: 1.645 / 1.960
    one_sided: float = 0.84
    # Accelerator time within this is not told apart (twice cost_slack); within that it is the same: nothing starts
    same: float = 1.02
    flat: float = 1.002
    # Panels per speed, on which nothing was chosen: the traffic's chance is part of the interval; seeds of one at most
    interval_seeds: tuple[int, ...] = (7, 8)
    interval_looks: int = 4

    # --- a trial ---
    # Of all requests: a trial ends early once so many more than allowed broke a bound
    stop_margin: float = 0.02
    # Requests whose arrivals a process keeps drawn, about 30 bytes each
    kept_requests: int = 4_000_000
    # About what a trial, a request, a second of traffic and a request that is only drawn take of a processor, in s; measured
    setup_s: float = 0.004
    request_s: float = 0.45e-6
    traffic_s: float = 0.4e-6
    draw_s: float = 0.05e-6


@dataclass(frozen=True)
class Refining:
    """How the engine is moved until its replay comes nearest to what was measured (model/refine.py)."""

    # Where it starts without the regression: of the shortest median time per token that is base, the rest is batch,
    # cache and prompts; of the base that a full batch, or a full cache, adds
    quiet_share: float = 0.93
    full_costs: float = 0.15
    # Uncertainties of the rounds in multiples of what is expected: wide first, to see the way
    rounds: tuple[float, ...] = (4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 1.0)
    # The last rounds take those that the solution itself shows, between the least and its inverse, outliers cut:
    # exact data outweigh every prior
    last_rounds: int = 4
    quietest: float = 0.1
    outlier: float = 3.0
    # Units between engines that a derivative compares: nearer, the replay's jumps rule
    nearest: float = 0.05
    farthest: float = 0.3
    # Step in units, and the shares of it that are tried
    longest: float = 1.0
    shorter: tuple[float, ...] = (1.0, 0.5, 0.25)
    # Shares of the KV tokens in what sequences and tokens cost together
    splits: tuple[float, ...] = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
    # Wander of a stage with a queue: a full batch averages out what a few sequences feel
    full_wander: float = 0.008
    # By which all step times are moved to see what speed does
    speed: float = 0.05
    # Of the base: the unit of what the fullest batch and its tokens add
    share: float = 0.3
    # Prior: the fullest batch and its tokens add about the same (runs of one shape cannot tell), starts are not far off
    split_weight: float = 1.5
    start_weight: float = 0.1
    # Standard deviations from which an error counts linearly; logarithm beyond which it counts no more
    robust: float = 2.0
    largest_error: float = 3.0
    # Mean squared error, in variances, with which no further start is tried after the first ones
    good_enough: float = 0.5
    tried_always: int = 2
    # Of a unit, where a coefficient starts at least
    least_start: float = 0.3
    # Bounds of FACTORS in their units: nothing is free
    lowest: tuple[float, ...] = (0.05, 0.03, 0.03, 0.03, 0.0)
    highest: tuple[float, ...] = (8.0, 30.0, 30.0, 8.0, 20.0)


@dataclass(frozen=True)
class Doubting:
    """What is believed of a fit (model/uncertainty.py), and how often a prediction looks at it."""

    # Prior of the factors' logarithms: 1.0 is a factor of 2.7 both ways
    prior_spread: tuple[float, ...] = (0.3, 1.0, 1.0, 0.8, 1.0)
    # What is moved to see what it does, and how far (a logarithm): less, and the replay's own jumps look like effects.
    # The costs of a sequence and of its KV tokens are moved as one: that pair differs by B and KV alone
    moves: tuple[tuple[tuple[int, ...], float], ...] = (((0,), 0.08), ((1, 2), 0.4), ((3,), 0.3), ((4,), 0.4))
    # Of LOOKED_AT: requests are few, a replay jumps, too
    least_noise: tuple[float, ...] = (0.02, 0.03, 0.03, 0.05, 0.03)
    # Of a stage's speed: what it is at least, and what makes a stage stand out before it is known
    least_wander: float = 0.01
    start_wander: float = 0.03
    # Logarithm: a queue's wait may be off by any factor
    largest_error: float = 1.5
    # Degrees of freedom of the stages' speeds: a stage at three times the wander counts a third
    outliers: float = 4.0
    # Of how TTFT grows with the prompt, beside the error of the measured slope
    slope_noise: float = 0.1
    # Of the engine model's throughput, beside the error of what was measured
    model_error: float = 0.02
    # How many stages of a replay that error is worth beforehand: little, so that a run that is reproduced counts
    error_known: float = 0.5
    # Engines that are drawn, and effective ones that must agree with the measured throughput
    draws: int = 1000
    fewest_draws: int = 20
    # Logarithm of a factor beyond which the linear model says nothing
    farthest: float = 1.5
    # Requests that are simulated to know the throughput of a full batch
    full_batch_requests: int = 3000
    # A prediction: requests simulated per rate, drawn engines simulated at every rate, and those asked for the SLO's
    requests: int = 3000
    engines: int = 24
    slo_engines: int = 8
    # Shares of the usual speed's distribution at which the SLO's rate is simulated
    looked_at: tuple[float, ...] = (0.005, 0.05, 0.2, 0.5, 0.8, 0.95, 0.995)


@dataclass(frozen=True)
class Speeds:
    """How a server's usual speed is told from neighbours and wander (model/speeds.py)."""

    # Blocks of a run at most; one is at least so many requests' lives, and so long
    blocks: int = 40
    lives: float = 0.5
    shortest_s: float = 2.0
    # Requests that make a block's ratio, blocks that make a run's
    fewest: int = 4
    fewest_blocks: int = 5
    # Of a block's ratio (logarithm), beside what its requests show: the regression is no replay
    least_error: float = 0.01
    # Prior of the moves of the coefficients (logarithms), before a fit says how well it knows them
    coefficients: tuple[float, ...] = (0.3, 1.0, 1.0, 0.8)
    # Prior of what a neighbour does (logarithm), and the probability from which on there is one
    slowed_mean: float = 0.35
    slowed_spread: float = 0.13
    likely: float = 0.8
    # Logarithm from which on it is a neighbour; what is less may be the server's own wander
    neighbour: float = 0.14
    # Of a run that its stretches may take, each and together: more is what is usual; and their number
    longest_stretch: float = 0.5
    most_stretches: int = 3
    # Wander (logarithm) with its prior probability, and its memory in s
    strengths: tuple[tuple[float, float], ...] = (
        (0.002, 0.15),
        (0.01, 0.2),
        (0.02, 0.2),
        (0.04, 0.2),
        (0.08, 0.15),
        (0.15, 0.1),
    )
    memories_s: tuple[float, ...] = (5.0, 20.0, 80.0, 300.0)
    # Probability of an explanation below which it is left out
    negligible: float = 1e-6
    # The s of a run that show half of how far the server's speed goes (variance)
    shown_s: float = 60.0
    # The s for which a server keeps one speed, on average: it may have kept it for all of a run that is not much longer
    keeps_s: float = 60.0
    # Bounds of what the requests may multiply a coefficient by
    least_factor: float = 0.1
    most_factor: float = 3.0
    # Fits with the stretches that were found
    rounds: int = 2

    def wanders(self) -> list[tuple[float, float, float]]:
        """(strength, memory in s, prior probability) of every wander that is thought of."""
        share = 1 / len(self.memories_s)
        return [(s, m, p * share) for s, p in self.strengths for m in self.memories_s]


CHOOSING, REFINING, DOUBTING, SPEEDS = Choosing(), Refining(), Doubting(), Speeds()
