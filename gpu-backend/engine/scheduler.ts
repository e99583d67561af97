/**
 * Decides which sequences run in a step. Pure: no clock, no I/O, no tensors. The engine calls it, runs its passes and reports
 * their times.
 *
 * Sequences wait for a slot; TenantQueue gives the order. A step has two phases: first each prefilling sequence advances by
 * one chunk of its prompt, then each decoding sequence by one token. Chunk boundaries are at fixed prompt positions, so
 * results do not depend on the batch. A prompt whose beginning is cached may start inside a chunk and continues to the
 * chunk's end, in a pass with those that start at the same offset.
 *
 * A sequence that cannot start does not block those after it, and its wait is bounded. With T the number of tenants that have
 * a prompt in prefill, and M = ⌊stepTokens / chunkTokens⌋, these bounds hold for a tenant within its share:
 * 1. Start: its sequences start in their order, limited by the room of one phase; prompts of other tenants do not count. If
 *    a slot and memory are free, none of its prompts is in prefill and `claim` allows it (adapter-claims.ts), its first
 *    sequence starts in the next step.
 * 2. Prefill: tenants take turns. Its first prompt advances at least every ⌈T / M⌉ steps, so a prompt of n chunks is
 *    prefilled within n · ⌈T / M⌉ steps of its start. A scored prompt waits one more step for each other tenant with a
 *    scored prompt.
 * 3. Slots and memory: while a sequence waits for them, each tenant can start later sequences before it only once. After
 *    that, the tenant's next sequence waits for room too, under the same rule.
 *
 * A tenant above its share is held back where it would slow others' steps by more than the allowed factor (step-shares.ts):
 * no more of its sequences start than fit a step, its decoding sequences take turns, and its prompts advance by parts of
 * chunks, with the same results bit for bit.
 *
 * A sequence is admitted only if KV memory holds all running sequences at full length, so growth never exhausts it. If there
 * is no room for a tenant below its share, the youngest sequence of the tenant with the most is parked: it gives up its slot,
 * keeps its keys and values, and later resumes from them. Nothing is recomputed, so parking does not change results.
 */
import { ServiceError } from "../../shared/errors.ts";
import type { KvBudget } from "../kv/kv-budget.ts";
import { type Move, SlotTable } from "../kv/slot-table.ts";
import { PrefillRoundRobin } from "./prefill-round-robin.ts";
import { type OthersLoad, StepShares } from "./step-shares.ts";
import { type Queued, TenantQueue } from "./tenant-queue.ts";

export interface Schedulable extends Queued {
  /** Prompt tokens whose keys and values are not cached yet. */
  readonly pendingPromptTokens: number;
  /** Tokens whose keys and values are cached. */
  readonly cachedTokens: number;
  /** Maximum tokens of the sequence, prompt and completion. */
  readonly mostTokens: number;
  /** True if every prompt position needs logits, not only the last. */
  readonly scoresPrompt: boolean;
}

export interface SchedulerLimits {
  /** Slots. */
  maxSequences: number;
  /** Maximum waiting sequences. A tenant may take as many places as it leaves free. */
  maxQueue: number;
  /** Maximum S × T of a prefill phase, padding included. */
  stepTokens: number;
  /** Prompt tokens of a sequence per step. */
  chunkTokens: number;
  /** Maximum factor by which tenants above their share may lengthen others' steps. Above 1. */
  slowdown: number;
}

export interface Chunk<S> {
  sequence: S;
  tokens: number;
}

/** One model call: the next tokens of the sequences in consecutive rows. */
export interface Pass<S> {
  firstRow: number;
  /** Tokens of each sequence's chunk that are cached already. */
  begunTokens: number;
  chunks: Chunk<S>[];
}

/** The decode pass; the rows move before it runs. */
export interface DecodePass<S> extends Pass<S> {
  moves: Move[];
}

/** A sequence that got a slot, and the changes of the arena, in order. */
export interface Admission<S> {
  sequence: S;
  /** The sequence that was parked for it: the row to keep, and the moves that close it. */
  parked: { sequence: S; row: number; moves: Move[] } | null;
  /** Moves after its row is opened, if it was parked while decoding. */
  moves: Move[];
}

export class Scheduler<S extends Schedulable> {
  readonly #limits: SchedulerLimits;
  readonly #kv: Pick<KvBudget, "holds">;
  readonly #queue = new TenantQueue<S>();
  readonly #slots: SlotTable<S>;
  /** Waiting sequences that were parked, and whether they decode. */
  readonly #parked = new Map<S, { isDecoding: boolean }>();
  readonly #shares: StepShares<S>;
  /** Tenants above their share that are held back in this step. */
  #held: ReadonlySet<string> = new Set();
  /** Sequences of held tenants whose prompts advanced in this step. */
  readonly #advanced = new Set<S>();
  readonly #prefillOrder = new PrefillRoundRobin<S>();
  /** For each sequence that waits for a slot or memory, the tenants that started a later sequence before it. */
  readonly #passedBy = new WeakMap<S, Set<string>>();
  #preemptions = 0;
  #heldRows = 0;

  constructor(limits: SchedulerLimits, kv: Pick<KvBudget, "holds">) {
    if (limits.stepTokens < limits.chunkTokens) {
      throw new Error(`stepTokens is ${limits.stepTokens}, one chunk alone has ${limits.chunkTokens}`);
    }
    this.#limits = limits;
    this.#kv = kv;
    this.#slots = new SlotTable(limits.maxSequences);
    this.#shares = new StepShares(limits.slowdown);
  }

  get waiting(): number {
    return this.#queue.waiting;
  }

  get running(): number {
    return this.#slots.size;
  }

  /** Number of waiting sequences that were parked. */
  get parked(): number {
    return this.#parked.size;
  }

  /** The row of a running sequence, else null. */
  rowOf = (sequence: S): number | null => this.#slots.rowOf(sequence);

  /** Number of times a sequence was parked. */
  get preemptions(): number {
    return this.#preemptions;
  }

  /** Number of times a running sequence of a held tenant did not advance in a step. */
  get heldRows(): number {
    return this.#heldRows;
  }

  /** Adds a sequence to its tenant's queue. Throws `overloaded` when the tenant's part of the queue is full. */
  enqueue(sequence: S): void {
    const { maxQueue, maxSequences } = this.#limits;
    const own = this.#queue.waitingOf(sequence.tenant);
    const free = maxQueue - this.waiting;
    if (own >= free) {
      // An estimate: one second per full batch in the queue.
      const retryAfterSeconds = Math.ceil((this.waiting + 1) / maxSequences);
      throw new ServiceError(
        "overloaded",
        `The queue has ${free} of ${maxQueue} places free, and a tenant may take as many as it leaves: this one has ${own}.`,
        { retryAfterSeconds },
      );
    }
    this.#queue.add(sequence);
  }

  /** Waiting sequences whose deadline has passed. */
  late(nowMs: number): S[] {
    return this.#queue.late(nowMs);
  }

  /**
   * Begins a step: starts as many waiting sequences, in order, as slots and memory allow. Sequences that cannot start are
   * skipped, and so are tenants that are held back. `claim` is called last, for other resources of the sequence: true
   * starts it, false leaves it waiting.
   */
  admit(nowMs: number, claim: (sequence: S) => boolean = () => true): Admission<S>[] {
    this.#queue.look(nowMs);
    const admissions: Admission<S>[] = [];
    let over = this.#queue.overShare();
    /** Tenants whose next sequence cannot start in this step. */
    const passed = new Set<string>();
    const started: string[] = [];
    /** For each sequence that waits for room, the tenants that may not pass it again. */
    const waitingForRoom: Set<string>[] = [];
    for (const next of this.#queue.inTurn()) {
      // A sequence that was parked in this step does not restart in it.
      if (admissions.some(({ parked }) => parked?.sequence === next)) continue;
      if (passed.has(next.tenant) || !this.#shareHolds(next, over) || !this.#phaseHolds(next)) {
        passed.add(next.tenant);
        continue;
      }
      const isRoom = this.#roomHolds(next);
      const victim = isRoom ? null : this.#victimFor(next);
      if ((!isRoom && !victim) || waitingForRoom.some((by) => by.has(next.tenant))) {
        passed.add(next.tenant);
        // Only tenants that started after the last start of its own tenant have passed it.
        const since = started.slice(started.lastIndexOf(next.tenant) + 1);
        const by = new Set([...(this.#passedBy.get(next) ?? []), ...since]);
        this.#passedBy.set(next, by);
        waitingForRoom.push(by);
        continue;
      }
      if (!claim(next)) continue;
      admissions.push({ parked: victim && this.#park(victim), sequence: next, moves: this.#start(next) });
      started.push(next.tenant);
      for (const by of waitingForRoom) by.add(next.tenant);
      over = this.#queue.overShare();
    }
    return admissions;
  }

  /** Decides which tenants are held back in the step. Runs after admitted sequences have found their cached prefixes. */
  share(): void {
    const over = this.#queue.overShare();
    this.#held = over;
    this.#advanced.clear();
    if (over.size === 0) {
      this.#shares.settle();
      return;
    }
    const others = this.#othersOf(over);
    this.#shares.begin(others);
    const { prefilling } = this.#slots;
    const chunks = prefilling.filter(({ tenant }) => over.has(tenant));
    const tokens = chunks.reduce((sum, sequence) => sum + this.#chunkOf(sequence), 0);
    if (this.#shares.holds(others, this.#slots.size - others.rows, tokens)) this.#held = new Set();
  }

  /** Records the duration of a pass. */
  ran(phase: "prefill" | "decode", { chunks }: Pass<S>, ms: number): void {
    const longest = chunks.reduce((max, { tokens }) => Math.max(max, tokens), 0);
    this.#shares.ran(phase, chunks.length * longest, ms);
  }

  /**
   * The prefill phase: the next chunk, or its rest, of the prefilling sequences in turn. Each pass covers consecutive rows at
   * the same offset of their chunks. Of the held sequences, the next in turn advances by a part of its chunk. Rows may move
   * and sequences may end between two passes.
   */
  *prefillPasses(): Generator<Pass<S>> {
    const left = this.#phaseOf(this.#slots.prefilling.filter(({ tenant }) => !this.#held.has(tenant)));
    this.#prefillOrder.advanced(left, this.#slots.prefilling);
    while (left.size > 0) {
      const { prefilling } = this.#slots;
      const first = prefilling.findIndex((sequence) => left.has(sequence));
      if (first < 0) break;
      const begunTokens = this.#begunOf(prefilling[first]);
      const isOther = (sequence: S) => !left.has(sequence) || this.#begunOf(sequence) !== begunTokens;
      const count = prefilling.slice(first).findIndex(isOther);
      const sequences = prefilling.slice(first, count < 0 ? undefined : first + count);
      for (const sequence of sequences) left.delete(sequence);
      const chunks = sequences.map((sequence) => ({ sequence, tokens: this.#chunkOf(sequence) }));
      yield { firstRow: this.#slots.decoding.length + first, begunTokens, chunks };
    }
    for (const sequence of this.#shares.inTurn(this.#heldNow())) {
      const row = this.rowOf(sequence)!;
      // A decoding sequence takes its turn in the decode phase.
      if (row < this.#slots.decoding.length) return;
      const tokens = this.#shares.takePiece(sequence, this.#chunkOf(sequence));
      if (tokens === 0) return;
      this.#advanced.add(sequence);
      yield { firstRow: row, begunTokens: this.#begunOf(sequence), chunks: [{ sequence, tokens }] };
    }
  }

  /** The decode phase: the next token of each decoding sequence; of the held ones, only those in turn. */
  decodePhase(): DecodePass<S> {
    const { decoding, prefilling } = this.#slots;
    const chunksOf = (sequences: readonly S[]) => sequences.map((sequence) => ({ sequence, tokens: 1 }));
    if (this.#held.size === 0) return { firstRow: 0, moves: [], begunTokens: 0, chunks: chunksOf(decoding) };
    const taken = new Set(decoding.filter(({ tenant }) => !this.#held.has(tenant)));
    for (const sequence of this.#shares.inTurn(this.#heldNow())) {
      if (this.#advanced.has(sequence)) continue;
      // A prompt in turn is not overtaken by later held sequences.
      if (prefilling.includes(sequence) || !this.#shares.takeRow(sequence, taken.size)) break;
      taken.add(sequence);
    }
    this.#heldRows += decoding.length - taken.size;
    const { firstRow, moves } = this.#slots.gather(taken);
    const chunks = chunksOf(this.#slots.decoding.slice(firstRow, firstRow + taken.size));
    return { firstRow, moves, begunTokens: 0, chunks };
  }

  /** Moves a sequence whose prompt is cached to the decoding rows. */
  promote(sequence: S): Move[] {
    return this.#slots.promote(sequence);
  }

  /** Removes a sequence and returns the moves that close its row, or null if it had none. */
  remove(sequence: S): Move[] | null {
    this.#queue.remove(sequence);
    this.#parked.delete(sequence);
    return this.#slots.rowOf(sequence) === null ? null : this.#slots.release(sequence);
  }

  #start(sequence: S): Move[] {
    this.#queue.start(sequence);
    this.#slots.open(sequence);
    const isDecoding = this.#parked.get(sequence)?.isDecoding ?? false;
    this.#parked.delete(sequence);
    this.#passedBy.delete(sequence);
    if (isDecoding) return this.#slots.promote(sequence);
    this.#prefillOrder.started(sequence.tenant);
    return [];
  }

  #park(sequence: S): Admission<S>["parked"] {
    const row = this.rowOf(sequence)!;
    this.#parked.set(sequence, { isDecoding: this.#slots.decoding.includes(sequence) });
    this.#queue.stop(sequence);
    this.#preemptions++;
    return { sequence, row, moves: this.#slots.release(sequence) };
  }

  /** The sequence to park so that `next` fits; null if that would be unfair or would not make room. */
  #victimFor(next: S): S | null {
    const victim = this.#queue.youngestOfRichest(next.tenant);
    // A sequence that was admitted in this step has nothing cached.
    if (!victim || victim.cachedTokens === 0) return null;
    // Beside all parked sequences, one of any length must fit alone.
    const isSafe = this.#kv.holds(1, Number.POSITIVE_INFINITY, this.#parkedTokens(next, victim));
    return isSafe && this.#roomHolds(next, victim) ? victim : null;
  }

  /** True if slots and KV memory hold one more sequence, with `victim` parked. */
  #roomHolds(next: S, victim: S | null = null): boolean {
    const running = [...this.#slots.decoding, ...this.#slots.prefilling].filter((sequence) => sequence !== victim);
    if (running.length === this.#slots.capacity) return false;
    const longest = running.reduce((most, { mostTokens }) => Math.max(most, mostTokens), next.mostTokens);
    return this.#kv.holds(running.length + 1, longest, this.#parkedTokens(next, victim));
  }

  /** Tokens of all parked sequences, with `next` running and `victim` parked. */
  #parkedTokens(next: S, victim: S | null): number {
    let tokens = victim?.cachedTokens ?? 0;
    for (const sequence of this.#parked.keys()) if (sequence !== next) tokens += sequence.cachedTokens;
    return tokens;
  }

  /** True if the tenant's share of step time allows one more. A parked sequence restarts regardless. */
  #shareHolds(next: S, over: ReadonlySet<string>): boolean {
    if (!over.has(next.tenant) || this.#queue.runningOf(next.tenant).size === 0 || this.#parked.has(next)) return true;
    const others = this.#othersOf(over);
    const running = this.#slots.size - others.rows;
    return running < this.#shares.rows(others, over.size, this.#limits.maxSequences);
  }

  /** The load of a step from tenants within their share. */
  #othersOf(over: ReadonlySet<string>): OthersLoad {
    const isOther = ({ tenant }: S) => !over.has(tenant);
    const prefilling = this.#slots.prefilling.filter(isOther);
    const phase = [...this.#phaseOf(prefilling)];
    return {
      rows: this.#slots.decoding.filter(isOther).length + prefilling.length,
      prefillTokens: phase.reduce((sum, sequence) => sum + this.#chunkOf(sequence), 0),
    };
  }

  #heldNow(): S[] {
    if (this.#held.size === 0) return [];
    return [...this.#slots.decoding, ...this.#slots.prefilling].filter(({ tenant }) => this.#held.has(tenant));
  }

  /** Sequences that fit the budget of a phase, in turn. After one that does not fit, its tenant's later ones are skipped. */
  #phaseOf(prefilling: readonly S[]): Set<S> {
    const phase = new Set<S>();
    const passed = new Set<string>();
    let longest = 0;
    let isScored = false;
    const some = new Set(prefilling);
    const promptsOf = (tenant: string) => [...this.#queue.runningOf(tenant)].filter((sequence) => some.has(sequence));
    for (const sequence of this.#prefillOrder.inTurn(promptsOf)) {
      if (passed.has(sequence.tenant)) continue;
      const longestWith = Math.max(longest, this.#chunkOf(sequence));
      // A scored chunk needs a row of logits per token, each as wide as the vocabulary: at most one per phase.
      const isFull = (phase.size + 1) * longestWith > this.#limits.stepTokens || (isScored && sequence.scoresPrompt);
      if (phase.size > 0 && isFull) {
        passed.add(sequence.tenant);
        continue;
      }
      phase.add(sequence);
      longest = longestWith;
      isScored ||= sequence.scoresPrompt;
    }
    return phase;
  }

  /** True if `next` fits a prefill phase together with its tenant's prompts. The first one always does. */
  #phaseHolds(next: S): boolean {
    if (this.#parked.get(next)?.isDecoding) return true;
    const own = this.#slots.prefilling.filter(({ tenant }) => tenant === next.tenant);
    if (next.scoresPrompt && own.some((sequence) => sequence.scoresPrompt)) return false;
    const longest = [...own, next].reduce((most, { pendingPromptTokens }) => Math.max(most, pendingPromptTokens), 0);
    return (own.length + 1) * Math.min(longest, this.#limits.chunkTokens) <= this.#limits.stepTokens;
  }

  #chunkOf(sequence: S): number {
    return Math.min(this.#limits.chunkTokens - this.#begunOf(sequence), sequence.pendingPromptTokens);
  }

  /** Tokens of a sequence's next chunk that are cached already. */
  #begunOf(sequence: S): number {
    return sequence.cachedTokens % this.#limits.chunkTokens;
  }
}
