/**
 * Who runs in a step. Pure: no clock, no I/O, no tensors; the engine asks, runs, and reports back.
 *
 * Sequences wait for a slot; TenantQueue says in which order they are asked. A step has two phases: prefilling sequences
 * advance by one chunk of their prompt, then every decoding one by one token. Chunks are cut at fixed prompt positions,
 * never by what mates leave over, so that a prompt is computed the same way in any company. One whose beginning is cached
 * may start within a chunk and goes on to its end, in a pass of those who start as far into one.
 *
 * A sequence that cannot start is passed, not waited for, and how long it waits is bounded. For a tenant that has no more
 * than its share:
 * - Its sequences start in order, as many as one phase holds; other tenants' prompts do not count. Where a slot and memory
 *   are free, its first starts in the next step, unless its own prompt is under way or `claim` refuses (adapter-claims.ts).
 * - Tenants take turns in the prefill phase. With T tenants that have a prompt under way and M = ⌊stepTokens / chunkTokens⌋,
 *   its first prompt advances at least every ⌈T / M⌉ steps, a scored one after one step more for each other tenant with a
 *   scored one. So a prompt of n chunks is prefilled within n · ⌈T / M⌉ steps of its start.
 * - A sequence that finds no slot or memory is passed by those after it in turn, once by each tenant. A tenant that has
 *   passed one starts nothing more before it; its next sequence waits for room, too, and is passed in the same way.
 *
 * A tenant that has more than its share is held back beside others, where a step would else cost them more time than they
 * lose to it (step-shares.ts): no more of its sequences start than a step takes rows of, those that decode take turns, and
 * a prompt goes on by parts of its chunks, which is the same to the bit.
 *
 * A sequence is admitted only where KV memory holds all that run at their full length, so growth never runs out of it.
 * Where there is no room for a tenant that has less than its share, the youngest sequence of the one with the most is
 * parked: it gives up its slot, keeps its keys and values, and goes on from them when its turn has come again. Nothing
 * is computed twice, so parking changes no bit of a result.
 */
import { ServiceError } from "../../shared/errors.ts";
import type { KvBudget } from "../kv/kv-budget.ts";
import { type Move, SlotTable } from "../kv/slot-table.ts";
import { PrefillTurns } from "./prefill-turns.ts";
import { type OthersLoad, StepShares } from "./step-shares.ts";
import { type Queued, TenantQueue } from "./tenant-queue.ts";

export interface Schedulable extends Queued {
  /** Prompt tokens whose keys and values are not cached yet. */
  readonly pendingPromptTokens: number;
  /** Tokens whose keys and values are. */
  readonly cachedTokens: number;
  /** As many as there may be of both at its end. */
  readonly mostTokens: number;
  /** Whether prompt positions need the head, not only the last. */
  readonly scoresPrompt: boolean;
}

export interface SchedulerLimits {
  /** Slots. */
  maxSequences: number;
  /** Sequences waiting for a slot. A tenant may take as many places as it leaves free. */
  maxQueue: number;
  /** Bound on S × T of a prefill phase, padding counted. */
  stepTokens: number;
  /** Prompt tokens a sequence prefills per step. */
  chunkTokens: number;
  /** So many times what a step takes at most, beside those of a tenant that has more than its share. Above 1. */
  slowdown: number;
}

export interface Chunk<S> {
  sequence: S;
  tokens: number;
}

/** What runs at once: next tokens of the sequences in the rows from the first on. */
export interface Pass<S> {
  firstRow: number;
  /** Of each one's chunk, so many tokens are cached already. */
  begunTokens: number;
  chunks: Chunk<S>[];
}

/** What decodes: rows move before it. */
export interface DecodePass<S> extends Pass<S> {
  moves: Move[];
}

/** A sequence that got a slot; what the arena must do, in this order. */
export interface Admission<S> {
  sequence: S;
  /** Who was parked for it: the row to keep, and the moves that close it. */
  parked: { sequence: S; row: number; moves: Move[] } | null;
  /** After its row is opened: those of a parked sequence that was decoding. */
  moves: Move[];
}

export class Scheduler<S extends Schedulable> {
  readonly #limits: SchedulerLimits;
  readonly #kv: Pick<KvBudget, "holds">;
  readonly #queue = new TenantQueue<S>();
  readonly #slots: SlotTable<S>;
  /** Waiting sequences that ran before, and whether they decode. */
  readonly #parked = new Map<S, { isDecoding: boolean }>();
  readonly #shares: StepShares<S>;
  /** Tenants that are held to a part of this step, or were to one of the last, as they have more than their share. */
  #held: ReadonlySet<string> = new Set();
  /** Of those, whose prompts went on in this step. */
  readonly #advanced = new Set<S>();
  readonly #prefillTurns = new PrefillTurns<S>();
  /** Of a sequence that waits for a slot or memory: the tenants that have passed it. */
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

  /** Of those waiting. */
  get parked(): number {
    return this.#parked.size;
  }

  /** The row of a running sequence, else null. */
  rowOf = (sequence: S): number | null => this.#slots.rowOf(sequence);

  /** Times a sequence was parked. */
  get preemptions(): number {
    return this.#preemptions;
  }

  /** Times a running sequence stood still in a step, as its tenant has more than its share. */
  get heldRows(): number {
    return this.#heldRows;
  }

  /** Lets a sequence wait. Throws a ServiceError "overloaded" where its tenant has taken its share of the queue. */
  enqueue(sequence: S): void {
    const { maxQueue, maxSequences } = this.#limits;
    const own = this.#queue.waitingOf(sequence.tenant);
    const free = maxQueue - this.waiting;
    if (own >= free) {
      // A rough guide: a second for each round that is queued before the caller.
      const retryAfterSeconds = Math.ceil((this.waiting + 1) / maxSequences);
      throw new ServiceError(
        "overloaded",
        `The queue has ${free} of ${maxQueue} places free, and a tenant may take as many as it leaves: this one has ${own}.`,
        { retryAfterSeconds },
      );
    }
    this.#queue.add(sequence);
  }

  /** Waiting sequences that can no longer start in time. */
  late(nowMs: number): S[] {
    return this.#queue.late(nowMs);
  }

  /**
   * A step begins: takes slots for as many waiting sequences as slots and memory allow, in turn. Those that cannot start
   * are passed, and so are tenants that are held back. `claim` is asked last, for whatever else a sequence needs to run:
   * true starts it, false leaves it where it waits.
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
      // Who gave way just now does not come back at once.
      if (admissions.some(({ parked }) => parked?.sequence === next)) continue;
      if (passed.has(next.tenant) || !this.#shareHolds(next, over) || !this.#phaseHolds(next)) {
        passed.add(next.tenant);
        continue;
      }
      const isRoom = this.#roomHolds(next);
      const victim = isRoom ? null : this.#victimFor(next);
      if ((!isRoom && !victim) || waitingForRoom.some((by) => by.has(next.tenant))) {
        passed.add(next.tenant);
        // What started before the last of its own tenant did not pass it.
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

  /** Says which tenants are held back in the step; once all that was admitted has found what is cached of it. */
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

  /** A pass took so long. */
  ran(phase: "prefill" | "decode", { chunks }: Pass<S>, ms: number): void {
    const longest = chunks.reduce((max, { tokens }) => Math.max(max, tokens), 0);
    this.#shares.ran(phase, chunks.length * longest, ms);
  }

  /**
   * The prefill phase: the next chunk, or what is left of it, of the prefilling sequences whose turn it is, in passes over
   * rows that follow each other and are equally far into their chunks; of those held back, the one whose turn it is, a
   * part of it. Rows may move, and sequences end, between one pass and the next.
   */
  *prefillPasses(): Generator<Pass<S>> {
    const left = this.#phaseOf(this.#slots.prefilling.filter(({ tenant }) => !this.#held.has(tenant)));
    this.#prefillTurns.advanced(left, this.#slots.prefilling);
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
      // A decoding one's turn comes in the decode phase.
      if (row < this.#slots.decoding.length) return;
      const tokens = this.#shares.takePiece(sequence, this.#chunkOf(sequence));
      if (tokens === 0) return;
      this.#advanced.add(sequence);
      yield { firstRow: row, begunTokens: this.#begunOf(sequence), chunks: [{ sequence, tokens }] };
    }
  }

  /** The decode phase: the next pending token of each decoding sequence, or of those held back whose turn it is. */
  decodePhase(): DecodePass<S> {
    const { decoding, prefilling } = this.#slots;
    const chunksOf = (sequences: readonly S[]) => sequences.map((sequence) => ({ sequence, tokens: 1 }));
    if (this.#held.size === 0) return { firstRow: 0, moves: [], begunTokens: 0, chunks: chunksOf(decoding) };
    const taken = new Set(decoding.filter(({ tenant }) => !this.#held.has(tenant)));
    for (const sequence of this.#shares.inTurn(this.#heldNow())) {
      if (this.#advanced.has(sequence)) continue;
      // Nobody begins another turn before a prompt whose turn it is.
      if (prefilling.includes(sequence) || !this.#shares.takeRow(sequence, taken.size)) break;
      taken.add(sequence);
    }
    this.#heldRows += decoding.length - taken.size;
    const { firstRow, moves } = this.#slots.gather(taken);
    const chunks = chunksOf(this.#slots.decoding.slice(firstRow, firstRow + taken.size));
    return { firstRow, moves, begunTokens: 0, chunks };
  }

  /** A sequence whose prompt is cached decodes from the next phase on. */
  promote(sequence: S): Move[] {
    return this.#slots.promote(sequence);
  }

  /** Takes a sequence out, wherever it is: the moves that close its row, or null where it had none. */
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
    this.#prefillTurns.started(sequence.tenant);
    return [];
  }

  #park(sequence: S): Admission<S>["parked"] {
    const row = this.rowOf(sequence)!;
    this.#parked.set(sequence, { isDecoding: this.#slots.decoding.includes(sequence) });
    this.#queue.stop(sequence);
    this.#preemptions++;
    return { sequence, row, moves: this.#slots.release(sequence) };
  }

  /** Who is to be parked so that there is room for `next`; null where that is unfair, or does not help. */
  #victimFor(next: S): S | null {
    const victim = this.#queue.youngestOfRichest(next.tenant);
    // Nothing is cached yet of one that was admitted just now.
    if (!victim || victim.cachedTokens === 0) return null;
    // Whatever is parked, a sequence of any length must be able to run alone.
    const isSafe = this.#kv.holds(1, Number.POSITIVE_INFINITY, this.#parkedTokens(next, victim));
    return isSafe && this.#roomHolds(next, victim) ? victim : null;
  }

  /** Whether slots and KV memory hold one more, were `victim` parked. */
  #roomHolds(next: S, victim: S | null = null): boolean {
    const running = [...this.#slots.decoding, ...this.#slots.prefilling].filter((sequence) => sequence !== victim);
    if (running.length === this.#slots.capacity) return false;
    const longest = running.reduce((most, { mostTokens }) => Math.max(most, mostTokens), next.mostTokens);
    return this.#kv.holds(running.length + 1, longest, this.#parkedTokens(next, victim));
  }

  /** Tokens of all parked sequences, were `next` running and `victim` parked. */
  #parkedTokens(next: S, victim: S | null): number {
    let tokens = victim?.cachedTokens ?? 0;
    for (const sequence of this.#parked.keys()) if (sequence !== next) tokens += sequence.cachedTokens;
    return tokens;
  }

  /** Whether a tenant's share of a step's time has room for one more. Who ran before takes turns with the others. */
  #shareHolds(next: S, over: ReadonlySet<string>): boolean {
    if (!over.has(next.tenant) || this.#queue.runningOf(next.tenant).size === 0 || this.#parked.has(next)) return true;
    const others = this.#othersOf(over);
    const running = this.#slots.size - others.rows;
    return running < this.#shares.rows(others, over.size, this.#limits.maxSequences);
  }

  /** What tenants have in a step that have no more than their share. */
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

  /**
   * As many of those prefilling as the budget of a phase has room for. Where one does not fit, what its tenant has after it
   * is passed, too.
   */
  #phaseOf(prefilling: readonly S[]): Set<S> {
    const phase = new Set<S>();
    const passed = new Set<string>();
    let longest = 0;
    let isScored = false;
    const some = new Set(prefilling);
    const promptsOf = (tenant: string) => [...this.#queue.runningOf(tenant)].filter((sequence) => some.has(sequence));
    for (const sequence of this.#prefillTurns.inTurn(promptsOf)) {
      if (passed.has(sequence.tenant)) continue;
      const longestWith = Math.max(longest, this.#chunkOf(sequence));
      // The head rows of a scored chunk are as many as its tokens, each as wide as the vocabulary: one at a time.
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

  /** Whether a prefill phase of its tenant's prompts alone stays within its budget with one more. The first always does. */
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
