/**
 * How much of a step's time tenants with more than their share may take beside the others. Pure.
 *
 * Others are slowed by them to at most `slowdown` times what a step would take without. What they take beyond that for want of
 * anything smaller they owe to the next steps. Among themselves they take turns of a few tokens, tenant by tenant, so that all
 * of their sequences go on.
 */
import { PhaseCost } from "./phase-cost.ts";

/** What the others have in a step. */
export interface OthersLoad {
  rows: number;
  /** Tokens of their prefill phase. */
  prefillTokens: number;
}

/** Tokens of a turn: rows move where it ends, and a stream stands still until the next. */
const turnTokens = 16;
/** A smaller part of a chunk costs hardly less. */
const leastPieceTokens = 32;

interface Turn {
  /** Counts up over all turns. */
  number: number;
  tokensLeft: number;
}

export class StepShares<S extends { readonly tenant: string }> {
  readonly #slowdown: number;
  readonly #cost = { prefill: new PhaseCost(), decode: new PhaseCost() };
  /** What may still be taken of the step; below 0 it is owed. */
  #balanceMs = 0;
  #turns = 0;
  /** The last turn of a sequence. */
  readonly #turnOf = new WeakMap<S, Turn>();

  /** `slowdown` is above 1. */
  constructor(slowdown: number) {
    if (!(slowdown > 1)) throw new Error(`slowdown is ${slowdown}, it must be above 1`);
    this.#slowdown = slowdown;
  }

  /** A phase ran over so many rows (decode) or tokens, padding counted (prefill). */
  ran(phase: "prefill" | "decode", size: number, ms: number): void {
    this.#cost[phase].ran(size, ms);
  }

  /** Nobody has more than their share: nothing is owed any more. */
  settle(): void {
    this.#balanceMs = 0;
  }

  /** A step begins in which there are tenants with more than their share, beside others. */
  begin(others: OthersLoad): void {
    const allowanceMs = this.#allowanceMs(others);
    // Where nobody else runs, no step stands idle for what is owed.
    const isAlone = others.rows === 0;
    this.#balanceMs = isAlone ? allowanceMs : Math.min(this.#balanceMs + allowanceMs, allowanceMs);
  }

  /** Rows that they may take in every step, one for each tenant at least, `most` at most. */
  rows(others: OthersLoad, tenants: number, most: number): number {
    const allowanceMs = this.#allowanceMs(others);
    let rows = Math.min(tenants, most);
    while (rows < most && this.#decodeMs(others.rows, rows + 1) <= allowanceMs) rows++;
    return rows;
  }

  /** Whether a whole step with so many more rows, and tokens of a prefill phase, stays within what may be taken. */
  holds(others: OthersLoad, rows: number, prefillTokens: number): boolean {
    const { prefill } = this.#cost;
    const prefillMs = prefill.msOf(others.prefillTokens + prefillTokens) - prefill.msOf(others.prefillTokens);
    return this.#decodeMs(others.rows, rows) + prefillMs <= this.#balanceMs;
  }

  /** Takes a part of `sequence`'s chunk of so many tokens: how many; 0 where nothing is left to take. */
  takePiece(sequence: S, tokens: number): number {
    if (!this.#mayTake) return 0;
    const { prefill } = this.#cost;
    let piece = tokens;
    while (piece >= 2 * leastPieceTokens && prefill.msOf(piece) > this.#balanceMs) {
      piece = leastPieceTokens * (Math.ceil(piece / leastPieceTokens) - 1);
    }
    this.#balanceMs -= prefill.msOf(piece);
    this.#takeTurn(sequence, piece);
    return piece;
  }

  /** Takes a row for `sequence` in a decode phase of so many others: whether there was time for it. */
  takeRow(sequence: S, rows: number): boolean {
    if (!this.#mayTake) return false;
    this.#balanceMs -= this.#decodeMs(rows, 1);
    this.#takeTurn(sequence, 1);
    return true;
  }

  /** In the order of their turns: whose turn has not ended, then tenant by tenant whose last is longest ago. */
  *inTurn(sequences: readonly S[]): Generator<S> {
    const last = (sequence: S) => this.#turnOf.get(sequence)?.number ?? 0;
    const isInTurn = (sequence: S) => (this.#turnOf.get(sequence)?.tokensLeft ?? 0) > 0;
    const ordered = sequences.toSorted((a, b) => last(a) - last(b));
    yield* ordered.filter(isInTurn);
    const lastOf = new Map<string, number>();
    for (const sequence of ordered) lastOf.set(sequence.tenant, last(sequence));
    const waiting = Map.groupBy(
      ordered.filter((sequence) => !isInTurn(sequence)),
      ({ tenant }) => tenant,
    );
    for (let turn = this.#turns + 1; waiting.size > 0; turn++) {
      const next = [...waiting.keys()].reduce((a, b) => (lastOf.get(b)! < lastOf.get(a)! ? b : a));
      const own = waiting.get(next)!;
      yield own.shift()!;
      lastOf.set(next, turn);
      if (own.length === 0) waiting.delete(next);
    }
  }

  get #mayTake(): boolean {
    return this.#balanceMs > 0 || this.#isFree;
  }

  /** Nothing was measured that took any time. */
  get #isFree(): boolean {
    return this.#cost.decode.msOf(1) === 0;
  }

  /** More for `rows` rows beside `others`. */
  #decodeMs(others: number, rows: number): number {
    const { decode } = this.#cost;
    return Math.max(0, decode.msOf(others + rows) - decode.msOf(others));
  }

  #allowanceMs({ rows, prefillTokens }: OthersLoad): number {
    const { decode, prefill } = this.#cost;
    // Who left just now may be back at any time, and then waits for the end of a step.
    if (rows === 0) return this.#slowdown * decode.msOf(1);
    return (this.#slowdown - 1) * (decode.msOf(rows) + prefill.msOf(prefillTokens));
  }

  #takeTurn(sequence: S, tokens: number): void {
    let turn = this.#turnOf.get(sequence);
    if (!turn || turn.tokensLeft <= 0) {
      turn = { number: ++this.#turns, tokensLeft: turnTokens };
      this.#turnOf.set(sequence, turn);
    }
    turn.tokensLeft -= tokens;
  }
}
