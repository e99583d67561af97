/**
 * Decides what runs in a step. `plan` is a pure function of the waiting and running sequences. Planner (planner.ts) keeps these, and the
 * engine executes each StepPlan.
 *
 * A step computes the next chunk of some prompts, one prompt a pass, then the next token of every decoding sequence (of a single one
 * maybe several, drafts.ts). Chunks end at fixed prompt positions, so results do not depend on what else runs. The chunks of a step have
 * at most `stepTokens` tokens. Several chunks also have at most `stepTokens`² pairs of a token and a cached token, because attention makes
 * a chunk late in a long prompt take nearly three times as long as the first chunk. A sequence starts only if the step has tokens left for
 * its first chunk.
 *
 * Fairness is by virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). A tenant's counter is its
 * service: prompt tokens computed, plus `generatedWeight` for each decoded token. The tenant with the lowest counter is next. A tenant
 * that had nothing waiting is lifted to the lowest counter of the waiting tenants, so being idle earns no credit. If no tenant waits, it
 * is lifted to the highest counter, so unused capacity is not charged. Within a tenant, prompts with the fewest chunks left go first,
 * which gives the median prompt its token soonest. Among equals, running sequences come first, in the order of their start, then waiting
 * sequences, the earliest due first.
 *
 * A sequence that lacks tokens of the step or memory (slots included) is passed: other sequences run first. In its tenant's order, a
 * passed sequence counts one chunk less for each `passLead` of service that its tenant gets. What a waiting sequence lacks is reserved
 * against later sequences of its tenant, and against tenants whose counter is more than `passLead` above its tenant's counter when it was
 * first passed. What a running sequence lacks is reserved only against waiting sequences of its tenant, unless a prompt of the tenant is
 * computed before it in the step.
 * With R slots and a context of C tokens, these bounds hold, except for sequences that wait for another sequence to compute their prefix:
 * 1. Service: of tenants with waiting sequences, none starts a sequence with a counter more than `passLead` above another's. So while two
 *    tenants wait, their service differs by at most 2U, with U = passLead + generatedWeight · R · C, the paper's bound.
 * 2. Wait: the first sequence of the tenant with the lowest counter starts, at the latest, when each other tenant has been served U
 *    since the sequence was first passed.
 * 3. Prompt: when the tenant of a prompt of n chunks has been served n · passLead since the prompt was first passed, sequences that
 *    arrive later start only in steps that compute a chunk of the prompt, or park it.
 *
 * A sequence is admitted only if KV memory holds all running sequences at full length, so growth never exhausts the memory. Without room,
 * the youngest sequence of the tenant that runs most is parked, if that tenant runs at least two more sequences than the waiting
 * sequence's tenant, and its counter is not lower. A parked sequence keeps its keys and values and resumes from them, so parking changes
 * no result.
 */
import type { KvStore } from "../kv/runner.ts";

/** Service of a generated token, in prompt tokens: as in the paper, and about the ratio of APIs' prices. */
export const generatedWeight = 2;
/** Equals the service of 1,024 generated tokens. */
export const passLead = 2048;

export interface Plannable {
  readonly tenant: string;
  /** Time on the engine's clock. Orders the sequences of a tenant. */
  readonly dueMs: number;
  /** 0 if the sequence decodes. */
  readonly pendingPromptTokens: number;
  /** If true, the grammar's allowed tokens are unknown, and the sequence does not decode. */
  readonly awaitsGrammar?: boolean;
  /** Above 0 in a waiting sequence only if the sequence was parked. */
  readonly cachedTokens: number;
  /** Maximum tokens of prompt and completion together. */
  readonly maxPositions: number;
}

export interface PlanLimits {
  maxSequences: number;
  /** A tenant may have at most as many waiting sequences as the queue has free places. */
  maxQueue: number;
  /** Maximum prompt tokens in a step. */
  stepTokens: number;
  /** A chunk ends at a multiple of this many prompt tokens, or at the end of the prompt. */
  chunkTokens: number;
}

export interface PlanResources<S> {
  kv: Pick<KvStore, "holds">;
  prefixes: {
    /** Number of prompt tokens in whole chunks that are cached. */
    reusableTokens(sequence: S): number;
    /** Whether another sequence, or one of `starting`, computes a chunk that `sequence` can reuse. */
    mustWait(sequence: S, starting: readonly S[]): boolean;
  } | null;
}

export interface PlanState<S> {
  waiting: readonly S[];
  running: ReadonlySet<S>;
  service: ReadonlyMap<string, number>; // counters by tenant
  /** Counter of the tenant when a sequence was first passed, by sequence. */
  passedSince: ReadonlyMap<S, number>;
}

/** Fields are in the order of execution. */
export interface StepPlan<S> {
  parked: S[];
  /** New sequences, and parked sequences that resume. */
  started: S[];
  prefill: S[];
  /** A sequence that ends in the prefill phase does not decode. */
  decode: S[];
  service: Map<string, number>;
  passedSince: Map<S, number>;
}

export function nextChunk(cachedTokens: number, pendingTokens: number, chunkTokens: number): number {
  return Math.min(chunkTokens - (cachedTokens % chunkTokens), pendingTokens);
}

export function plan<S extends Plannable>(
  state: PlanState<S>,
  limits: PlanLimits,
  resources: PlanResources<S>,
): StepPlan<S> {
  const service = new Map(state.service);
  const serve = (tenant: string, amount: number) => service.set(tenant, service.get(tenant)! + amount);
  for (const one of state.running) if (decodes(one)) serve(one.tenant, generatedWeight);
  const room = new Room(state, limits.maxSequences, resources);
  const [parked, started, prefill]: S[][] = [[], [], []];
  const [finished, passedSince] = [new Set<S>(), new Map(state.passedSince)];
  /** Waiting sequences of the tenant, and of tenants with a counter above `maxCounter`, may not take what a passed sequence lacks. */
  const passed: { tenant: string; lack: Lack; maxCounter: number }[] = [];
  let [tokensLeft, pairsLeft] = [limits.stepTokens, limits.stepTokens ** 2];
  for (const next of inTurn(candidatesOf(state, limits.chunkTokens, resources.prefixes), service, room)) {
    const { sequence, tokens, pairs, finishes } = next;
    const { tenant } = sequence;
    const isWaiting = !state.running.has(sequence);
    if (parked.includes(sequence)) continue;
    if (isWaiting && sequence.cachedTokens === 0 && resources.prefixes?.mustWait(sequence, started)) continue;
    const isKept = ({ tenant: whose, maxCounter }: (typeof passed)[number]) =>
      whose === tenant || service.get(tenant)! > maxCounter;
    let lack = isWaiting ? passed.find((one) => (one.lack === "memory" || tokens > 0) && isKept(one))?.lack : undefined;
    if (!lack && (tokens > tokensLeft || (pairs > pairsLeft && prefill.length > 0))) lack = "tokens";
    if (!lack && isWaiting) {
      if (!room.holds(sequence)) lack = "memory";
      const mayPark = (one: S) => state.running.has(one) && !prefill.includes(one);
      const victim = lack === "memory" ? room.victimFor(sequence, service, mayPark) : undefined;
      if (victim) {
        room.park(victim);
        parked.push(victim);
        if (decodes(victim)) serve(victim.tenant, -generatedWeight);
        lack = undefined;
      }
    }
    if (lack) {
      const since = passedSince.get(sequence) ?? state.service.get(tenant)!;
      passedSince.set(sequence, since);
      const isFirst = !passed.some((one) => one.tenant === tenant && one.lack === lack);
      const isAhead = !prefill.some((one) => one.tenant === tenant);
      if (isFirst && isWaiting) passed.push({ tenant, lack, maxCounter: since + passLead });
      else if (isFirst && isAhead) passed.push({ tenant, lack, maxCounter: Number.POSITIVE_INFINITY });
      continue;
    }
    if (isWaiting) {
      room.start(sequence);
      started.push(sequence);
    }
    if (tokens > 0) prefill.push(sequence);
    if (finishes) {
      finished.add(sequence);
      passedSince.delete(sequence);
    }
    tokensLeft -= tokens;
    pairsLeft -= pairs;
    serve(tenant, tokens + (finishes ? generatedWeight : 0));
  }
  const decode = [...room.running].filter((one) => decodes(one) || finished.has(one));
  return { parked, started, prefill, decode, service, passedSince };
}

const decodes = (one: Plannable) => one.pendingPromptTokens === 0 && !one.awaitsGrammar;

interface Candidate<S> {
  sequence: S;
  /** Number of tokens of the next chunk; 0 if the sequence was parked while decoding. */
  tokens: number;
  /** Pairs of a token of the chunk and a cached token. */
  pairs: number;
  /** If true, the prompt ends in this step and the sequence decodes. */
  finishes: boolean;
}

/** A missing slot counts as missing memory. */
type Lack = "tokens" | "memory";

/** Candidates by tenant, in the order in which the plan considers them. */
function candidatesOf<S extends Plannable>(
  state: PlanState<S>,
  chunkTokens: number,
  prefixes: PlanResources<S>["prefixes"],
) {
  const prompts = [...state.running].filter(({ pendingPromptTokens }) => pendingPromptTokens > 0);
  const candidates = [...prompts, ...state.waiting].map((sequence) => {
    const reused = sequence.cachedTokens === 0 ? (prefixes?.reusableTokens(sequence) ?? 0) : 0;
    const pending = sequence.pendingPromptTokens - reused;
    const cached = sequence.cachedTokens + reused;
    const tokens = nextChunk(cached, pending, chunkTokens);
    const service = state.service.get(sequence.tenant)!;
    const age = (service - (state.passedSince.get(sequence) ?? service)) / passLead;
    const rank = Math.ceil(pending / chunkTokens) - age;
    return { sequence, tokens, pairs: tokens * cached, finishes: tokens === pending, rank };
  });
  // The sort is stable, so equals keep their order.
  candidates.sort((a, b) => a.rank - b.rank);
  return Map.groupBy(candidates, ({ sequence }) => sequence.tenant);
}

/** Yields repeatedly from the tenant with the lowest counter. Ties go to the tenant with the fewest running sequences. */
function* inTurn<S extends Plannable>(
  candidates: Map<string, Candidate<S>[]>,
  service: ReadonlyMap<string, number>,
  room: Room<S>,
): Generator<Candidate<S>> {
  const order = ([{ sequence: a }]: Candidate<S>[], [{ sequence: b }]: Candidate<S>[]) =>
    service.get(a.tenant)! - service.get(b.tenant)! ||
    room.rowsOf(a.tenant) - room.rowsOf(b.tenant) ||
    a.dueMs - b.dueMs;
  /** In reverse order: the next tenant is at the end. */
  const tenants = [...candidates.values()].sort((a, b) => order(b, a));
  for (let next = tenants.pop(); next; next = tenants.pop()) {
    const { parkings } = room;
    yield next.shift()!;
    // Parking a sequence changes the order of the waiting tenants.
    if (parkings !== room.parkings) tenants.sort((a, b) => order(b, a));
    if (next.length > 0) tenants.splice(placeOf(next, tenants, order), 0, next);
  }
}

/** Index at which to insert `one` into a list in reverse order. `one` comes before its equals, so that it is popped after them. */
function placeOf<T>(one: T, list: readonly T[], order: (a: T, b: T) => number): number {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (order(list[middle], one) > 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

class Room<S extends Plannable> {
  readonly running: Set<S>;
  readonly #maxSequences: number;
  readonly #resources: PlanResources<S>;
  readonly #parked: Set<S>;
  readonly #rows = new Map<string, number>();
  parkings = 0;

  constructor({ running, waiting }: PlanState<S>, maxSequences: number, resources: PlanResources<S>) {
    this.running = new Set(running);
    this.#maxSequences = maxSequences;
    this.#resources = resources;
    this.#parked = new Set(waiting.filter(({ cachedTokens }) => cachedTokens > 0));
    for (const { tenant } of running) this.#count(tenant, 1);
  }

  start(sequence: S): void {
    this.#count(sequence.tenant, 1);
    this.running.add(sequence);
    this.#parked.delete(sequence);
  }

  park(sequence: S): void {
    this.#count(sequence.tenant, -1);
    this.parkings++;
    this.running.delete(sequence);
    this.#parked.add(sequence);
  }

  rowsOf(tenant: string): number {
    return this.#rows.get(tenant) ?? 0;
  }

  /** Returns undefined if parking would be unfair or make no room. */
  victimFor(next: S, service: ReadonlyMap<string, number>, mayPark: (one: S) => boolean): S | undefined {
    const [own, counter] = [this.rowsOf(next.tenant), service.get(next.tenant)!];
    if (this.#rows.values().every((rows) => rows < own + 2)) return undefined;
    const [richest] = [...Map.groupBy(this.running, ({ tenant }) => tenant)]
      .filter(([tenant, rows]) => rows.length >= own + 2 && service.get(tenant)! >= counter)
      .sort(([a, rowsA], [b, rowsB]) => rowsB.length - rowsA.length || service.get(b)! - service.get(a)!);
    const victim = richest?.[1].findLast(mayPark);
    if (!victim || !this.holds(next, victim)) return undefined;
    // Memory must also hold a sequence as long as the context beside all parked sequences.
    return this.#resources.kv.holds([Number.POSITIVE_INFINITY], this.#parkedLengths(next, victim)) ? victim : undefined;
  }

  #count(tenant: string, change: 1 | -1): void {
    this.#rows.set(tenant, this.rowsOf(tenant) + change);
  }

  holds(next: S, victim?: S): boolean {
    if (this.running.size === this.#maxSequences && !victim) return false;
    const rows = [...this.running].filter((one) => one !== victim);
    const lengths = [...rows, next].map(({ maxPositions }) => maxPositions);
    return this.#resources.kv.holds(lengths, this.#parkedLengths(next, victim));
  }

  #parkedLengths(next: S, victim?: S): number[] {
    const parked = [...this.#parked, ...(victim ? [victim] : [])].filter((one) => one !== next);
    return parked.map(({ cachedTokens }) => cachedTokens);
  }
}
