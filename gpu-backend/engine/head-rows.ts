/** Collects the rows of the head for one run. Pure. Shapes: Q gates, N rows, M positions that the head reads. */
import { limits } from "../../shared/contracts/limits.ts";
import type { RowAdapter } from "../adapters/adapter.ts";
import type { Pass } from "../kv/runner.ts";
import type { HeadInput, HiddenChange } from "../runtime/step.ts";
import { drawsFromCandidates, isGreedy } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";

/** The head's row for a sequence's next token, or for the score of a prompt token. */
export interface Head {
  sequence: Sequence;
  row: number;
  hiddenRow: number;
  /** Index of the base's row; null if the request has no comparison with the base. */
  baseRow: number | null;
  /** The prompt token to score; null if the next token is sampled. */
  scoredId: number | null;
  /** The row's token if it is a guess (drafts.ts); else null. The row is read only if the guess is right. */
  draftedId: number | null;
  readsMemories: boolean;
}

interface Row {
  at: number;
  adapter: RowAdapter | null;
  inverseTemperature: number;
  targetId: number;
}

export class HeadRows {
  readonly heads: Head[] = [];
  readonly #gates: number;
  readonly states: Pass["states"][number][] = [];
  readonly #rows: Row[] = [];
  /** Each field has one array, because a row with a repetition penalty has hundreds of changes. */
  readonly #changes = { rows: [] as number[], ids: [] as number[], penalties: [] as number[], values: [] as number[] };

  constructor(gates: number) {
    this.#gates = gates;
  }

  at({ row }: Sequence, position: number): number {
    return this.states.push({ kv: row, position }) - 1;
  }

  /** Adds a row for the answer. A comparison adds a second row, for the base. */
  add(sequence: Sequence, at: number, scoredId: number | null, draftedId: number | null = null): void {
    const row = this.#addRow(sequence, at, sequence.answering, scoredId);
    const readsMemories = sequence.readsMemories(scoredId !== null);
    // Without adapter and memories the base itself answers, so there is nothing to compare.
    const compares = sequence.request.compare && (sequence.answering !== null || readsMemories);
    const baseRow = compares ? this.#addRow(sequence, at, null, scoredId) : null;
    this.heads.push({ sequence, row, hiddenRow: at, baseRow, scoredId, draftedId, readsMemories });
  }

  /** If `expert` is null, the base scores the token. */
  addExpert(expert: RowAdapter | null, at: number, targetId: number): void {
    this.#rows.push({ at, adapter: expert, inverseTemperature: 1, targetId });
  }

  tensors() {
    const rows = this.#rows;
    const gates = new Float32Array(rows.length * this.#gates);
    rows.forEach(({ adapter }, n) => {
      if (adapter?.gates) gates.set(adapter.gates, n * this.#gates);
    });
    return {
      rows: Int32Array.from(rows, ({ at }) => at),
      gates,
      own: ownChanges(rows),
      inverseTemperatures: Float32Array.from(rows, (row) => row.inverseTemperature),
      targetIds: Int32Array.from(rows, (row) => row.targetId),
      bias: {
        rows: Int32Array.from(this.#changes.rows),
        ids: Int32Array.from(this.#changes.ids),
        penalties: Float32Array.from(this.#changes.penalties),
        values: Float32Array.from(this.#changes.values),
      },
      want: {
        scores: this.heads.some(needsScores),
        hidden: this.heads.some(({ sequence, scoredId }) => sequence.trace?.kind === "hidden" && scoredId !== null),
        only: readOf(this.heads),
      },
    } satisfies HeadInput;
  }

  #addRow(sequence: Sequence, at: number, adapter: RowAdapter | null, scoredId: number | null): number {
    const row = this.#rows.length;
    const { sampling } = sequence;
    const inverseTemperature = scoredId !== null || isGreedy(sampling) ? 1 : 1 / sampling.temperature;
    this.#rows.push({ at, adapter, inverseTemperature, targetId: scoredId ?? 0 });
    for (const { id, penalty, value } of scoredId === null ? sequence.logitChanges() : []) {
      this.#changes.rows.push(row);
      this.#changes.ids.push(id);
      this.#changes.penalties.push(penalty);
      this.#changes.values.push(value);
    }
    return row;
  }
}

/** Every row gets one entry, or `mixtureAdapters` entries if any row has several own adapters. A row's sum is the same either way. */
function ownChanges(rows: readonly Row[]): HeadInput["own"] {
  const changed = [...rows.keys()].filter((n) => rows[n].adapter?.changes.length);
  if (changed.length === 0) return undefined;
  const lists = changed.map((n) => rows[n].adapter!.changes);
  const places = lists.some(({ length }) => length > 1) ? limits.mixtureAdapters : 1;
  const placeOf = new Map<HiddenChange, number>();
  const indexes: number[] = [];
  const weights: number[] = [];
  for (const list of lists) {
    for (let k = 0; k < places; k++) {
      // A spare entry repeats the row's first change at weight 0, so that no other tenant's change enters the row.
      const { change, weight } = list[k] ?? { ...list[0], weight: 0 };
      if (!placeOf.has(change)) placeOf.set(change, placeOf.size);
      indexes.push(placeOf.get(change)!);
      weights.push(weight);
    }
  }
  return {
    rows: Int32Array.from(changed),
    changes: [...placeOf.keys()],
    indexes: Int32Array.from(indexes),
    weights: Float32Array.from(weights),
  };
}

function readOf(heads: readonly Head[]): HeadInput["want"]["only"] {
  if (heads.every(readsLikeliestOnly)) return "likeliest";
  return heads.every(readsOneCandidate) ? "sums" : undefined;
}

function readsOneCandidate({ sequence: { sampling, grammar }, scoredId }: Head): boolean {
  if (scoredId === null && grammar) return false;
  return (scoredId !== null || isGreedy(sampling)) && !sampling.logprobs;
}

function readsLikeliestOnly({ sequence, scoredId, baseRow, readsMemories }: Head): boolean {
  const { sampling, request } = sequence;
  if (readsMemories || sequence.grammar) return false;
  return scoredId === null && baseRow === null && !request.compare && sampling.logprobs === null && isGreedy(sampling);
}

/** Drawing a token, a comparison with the base, a grammar or a memory may need scores outside the top K. */
function needsScores({ sequence, scoredId, baseRow, readsMemories }: Head): boolean {
  if (scoredId === null && sequence.grammar) return true;
  if (readsMemories && (scoredId === null || (sequence.sampling.logprobs ?? 0) > 0)) return true;
  return scoredId === null && (baseRow !== null || !drawsFromCandidates(sequence.sampling));
}
