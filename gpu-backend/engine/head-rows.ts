/**
 * Collects the head rows of one run: plain rows of one adapter, mixed rows of several, and base rows for comparison. Pure.
 * Shapes: Q gates, N plain rows, X mixed rows, J adapters of a mixed row, P positions of the past, S rows of the arena.
 */
import { pointerOdds } from "../../shared/math/evidence.ts";
import type { Adapter, RowBias } from "../adapters/adapter.ts";
import {
  type KeptMixture,
  type LogitChanges,
  type MixedInput,
  type MixedOutput,
  type MixtureInput,
  minPrefillTokens,
  type PointerInput,
  type PointerQueries,
  type StepInput,
} from "../runtime/step.ts";
import { drawsFromCandidates, isGreedy } from "./sampler.ts";
import type { LogitChange, Sequence } from "./sequence.ts";

/** The head row of a sequence's next token, or of the score of a prompt token. */
export interface Head {
  sequence: Sequence;
  /** Whether `row` is a mixed row or a plain one. */
  isMixed: boolean;
  row: number;
  /** Index among all rows with a hidden state. */
  hiddenRow: number;
  /** The plain row of the base, if it is compared; else null. */
  baseRow: number | null;
  /** The prompt token to be scored; null where the next token is to be sampled. */
  scoredId: number | null;
}

/** The past of S rows, which the pointer's keys are read from. */
export type PointerFeed = Pick<StepInput, "past" | "pastTokens">;

interface PlainRow {
  at: number;
  gates: Float32Array | null;
  inverseTemperature: number;
  targetId: number;
}

interface MixedRow {
  at: number;
  sequence: Sequence;
  inverseTemperature: number;
  targetId: number;
  /** True for the mixture's result, false for each expert's. All rows of a run are alike. */
  isMixture: boolean;
  /** Row of the feed, of S, that holds its prompt, which the pointer copies from. */
  arenaRow: number;
  /** Indexes of the sequence's adapters in this row: those with a weight for a mixture, else all. */
  adapters: number[];
  /** Whether its experts' probabilities are returned, to be mixed later. */
  isKept: boolean;
}

export class HeadRows {
  readonly heads: Head[] = [];
  readonly #gates: number;
  readonly #feed: PointerFeed;
  readonly #arenaRows: number;
  readonly #headRows: number[] = [];
  readonly #plain: PlainRow[] = [];
  readonly #mixed: MixedRow[] = [];
  readonly #bias = new BiasList();
  readonly #mixedBias = new BiasList();
  readonly #adapterBias = new BiasList();
  readonly #biasedAdapters: number[] = [];
  #fed = 0;

  /** `gates` is Q, `arenaRows` S. */
  constructor(gates: number, feed: PointerFeed, arenaRows: number) {
    this.#gates = gates;
    this.#feed = feed;
    this.#arenaRows = arenaRows;
  }

  /** The head's row at flat position `flat` of the step. Never after `fed`. */
  at(flat: number): number {
    return this.#headRows.push(flat) - 1;
  }

  /** The head's row of the next state that is fed. */
  fed(): number {
    return this.#headRows.length + this.#fed++;
  }

  /** Adds a row of the sequence's one adapter, or of the base for a mixture, and a row of the base if it is compared. */
  addPlain(sequence: Sequence, at: number, scoredId: number | null): Head {
    const adapter = sequence.isMixed ? null : (sequence.acquired?.adapter ?? null);
    const row = this.#addPlain(sequence, at, adapter, scoredId);
    const baseRow = sequence.comparesBase && adapter ? this.#addPlain(sequence, at, null, scoredId) : null;
    const head = { sequence, isMixed: false, row, hiddenRow: at, baseRow, scoredId };
    this.heads.push(head);
    return head;
  }

  /**
   * A row of the sequence's mixture, whose prompt is in row `arenaRow` of the feed. A mixture that is the base alone is a plain
   * row, unless its log-probabilities rather than its logits are to be penalised.
   */
  addMixed(sequence: Sequence, at: number, scoredId: number | null, arenaRow: number): void {
    const { adapters: weights, pointer } = sequence.mixture!;
    const adapters = [...weights.keys()].filter((j) => weights[j] > 0);
    const isPenalised = scoredId === null && sequence.sampling.repetition_penalty !== 1;
    if (adapters.length === 0 && pointer === 0 && !isPenalised) {
      const head = this.addPlain(sequence, at, scoredId);
      // The base compared with itself.
      head.baseRow = sequence.comparesBase ? head.row : null;
      return;
    }
    const row = this.#mixed.length;
    this.#addExperts({ at, sequence, scoredId, arenaRow, adapters, isKept: false, isMixture: true });
    this.#addMixedHead(sequence, row, at, scoredId);
  }

  /**
   * A row that scores one prompt token under the base and each adapter of a sequence's mixture, and compares keys for its
   * pointer.
   */
  addEvidence(sequence: Sequence, at: number, targetId: number, arenaRow: number): void {
    const adapters = [...sequence.adapters.keys()];
    this.#addExperts({ at, sequence, scoredId: targetId, arenaRow, adapters, isKept: false, isMixture: false });
  }

  /** A row whose expert probabilities are kept until the weights are known; then its next token is sampled (`keptMixture`). */
  addKept(sequence: Sequence, at: number, arenaRow: number): void {
    const adapters = [...sequence.adapters.keys()];
    const row = this.#mixed.filter(({ isKept }) => isKept).length;
    this.#addExperts({ at, sequence, scoredId: null, arenaRow, adapters, isKept: true, isMixture: false });
    this.#addMixedHead(sequence, row, at, null);
  }

  tensors() {
    const rows = this.#plain;
    const gates = new Float32Array(rows.length * this.#gates);
    rows.forEach((row, n) => {
      if (row.gates) gates.set(row.gates, n * this.#gates);
    });
    return {
      headRows: Int32Array.from(this.#headRows),
      plainRows: Int32Array.from(rows, ({ at }) => at),
      gates,
      inverseTemperatures: Float32Array.from(rows, (row) => row.inverseTemperature),
      targetIds: Int32Array.from(rows, (row) => row.targetId),
      bias: this.#bias.tensors(),
      mixed: this.#mixed.length > 0 ? this.#mixedInput() : undefined,
      want: {
        scores: this.heads.some(needsScores),
        hidden: this.heads.some(({ sequence, scoredId }) => sequence.trace !== null && scoredId !== null),
        likeliestOnly: this.heads.every(readsLikeliestOnly),
      },
    };
  }

  #mixedInput(): MixedInput {
    const rows = this.#mixed;
    const Q = this.#gates;
    const J = adaptersOfWidest(rows);
    const gates = new Float32Array(rows.length * J * Q);
    rows.forEach(({ sequence, adapters }, x) => {
      adapters.forEach((j, k) => {
        const own = sequence.adapters[j].adapter.gates;
        if (own) gates.set(own, (x * J + k) * Q);
      });
    });
    return {
      rows: Int32Array.from(rows, ({ at }) => at),
      adapters: J,
      gates,
      adapterBias: { ...this.#adapterBias.tensors(), adapters: Int32Array.from(this.#biasedAdapters) },
      targetIds: Int32Array.from(rows, ({ targetId }) => targetId),
      keep: [...rows.keys()].filter((x) => rows[x].isKept),
      evidence: rows[0].isMixture ? undefined : this.#queries(minPrefillTokens),
      mixture: rows[0].isMixture
        ? { ...this.#mixture(rows, J), pointer: { ...this.#pointer(rows), ...this.#queries(1) } }
        : undefined,
    };
  }

  /** How the rows that were kept are mixed, now that their sequences have weights. Rows without weights become NaN. */
  keptMixture({ kept, cosines }: MixedOutput): KeptMixture {
    const kinds = [...this.#mixed.keys()].filter((x) => this.#mixed[x].isKept);
    const J = adaptersOfWidest(this.#mixed);
    const P = this.#feed.pastTokens;
    const own = new Float32Array(kinds.length * P);
    kinds.forEach((x, u) => {
      own.set(cosines!.subarray(x * P, (x + 1) * P), u * P);
    });
    const mixture = this.#mixture(
      kinds.map((x) => this.#mixed[x]),
      J,
    );
    return { ...mixture, adapters: J, experts: kept!, cosines: own, wantsScores: this.heads.some(needsScores) };
  }

  #mixture(rows: readonly MixedRow[], J: number): MixtureInput {
    const adapterWeights = new Float32Array(rows.length * J);
    rows.forEach(({ sequence, adapters }, x) => {
      adapters.forEach((j, k) => {
        adapterWeights[x * J + k] = sequence.mixture?.adapters[j] ?? 0;
      });
    });
    return {
      baseWeights: Float32Array.from(rows, ({ sequence }) => sequence.mixture?.base ?? 0),
      adapterWeights,
      inverseTemperatures: Float32Array.from(rows, ({ inverseTemperature }) => inverseTemperature),
      bias: this.#mixedBias.tensors(),
      pointer: this.#pointer(rows),
    };
  }

  /** The mixed rows' queries to each row of the feed, padded to at least `minQueries`. */
  #queries(minQueries: number): PointerQueries {
    const rows = this.#mixed;
    const { past, pastTokens: positions } = this.#feed;
    const S = this.#arenaRows;
    const queriesOf = Array.from({ length: S }, (): number[] => []);
    rows.forEach(({ arenaRow }, x) => {
      queriesOf[arenaRow].push(x);
    });
    const T = queriesOf.reduce((max, { length }) => Math.max(max, length), minQueries);
    const queries = new Int32Array(S * T);
    const answers = new Int32Array(rows.length);
    queriesOf.forEach((ofRow, s) => {
      ofRow.forEach((x, t) => {
        queries[s * T + t] = rows[x].at;
        answers[x] = s * T + t;
      });
    });
    return { keys: past[past.length - 2], count: S, positions, queries, answers };
  }

  #pointer(rows: readonly MixedRow[]): PointerInput {
    const P = this.#feed.pastTokens;
    const lengths = new Int32Array(rows.length);
    const ids = new Int32Array(rows.length * P);
    rows.forEach(({ sequence }, x) => {
      lengths[x] = Math.max(1, sequence.evidenceTokens - 1);
      for (let i = 0; i < lengths[x]; i++) ids[x * P + i] = sequence.ids[i + 1];
    });
    const rules = rows.map(({ sequence }) => sequence.request.mixture?.evidence?.pointer);
    return {
      ...{ positions: P, lengths, ids },
      sharpness: Float32Array.from(rules, (rule) => rule?.sharpness ?? 0),
      sentinels: Float32Array.from(rules, (rule) => rule?.sentinel ?? 0),
      weights: Float32Array.from(rows, ({ sequence }) => sequence.mixture?.pointer ?? 0),
      odds: Float32Array.from(rows, ({ sequence }) => (sequence.mixture ? pointerOdds(sequence.mixture) : 0)),
    };
  }

  #addPlain(sequence: Sequence, at: number, adapter: Adapter | null, scoredId: number | null): number {
    const row = this.#plain.length;
    const inverseTemperature = inverseTemperatureOf(sequence, scoredId);
    const gates = adapter?.gates ?? null;
    this.#plain.push({ at, gates, inverseTemperature, targetId: scoredId ?? 0 });
    // Prompt tokens are scored without the request's logit changes, with the adapter's bias.
    this.#addRowBias(row, adapter?.bias ?? null, scoredId === null ? sequence.logitChanges() : []);
    return row;
  }

  #addRowBias(row: number, bias: RowBias | null, own: Iterable<LogitChange>): void {
    const offsets = new Map<number, number>();
    bias?.ids.forEach((id, i) => {
      offsets.set(id, bias.values[i]);
    });
    for (const change of own) {
      this.#bias.add(row, change, offsets.get(change.id));
      offsets.delete(change.id);
    }
    for (const [id, offset] of offsets) this.#bias.add(row, { id, penalty: 1, value: 0 }, offset);
  }

  #addExperts({
    scoredId,
    ...row
  }: Omit<MixedRow, "inverseTemperature" | "targetId"> & { scoredId: number | null }): void {
    this.#addAdapterBias(this.#mixed.length, row.sequence, row.adapters);
    const inverseTemperature = inverseTemperatureOf(row.sequence, scoredId);
    this.#mixed.push({ ...row, inverseTemperature, targetId: scoredId ?? 0 });
  }

  /** Reads mixed row `row`, and a row of the base if it is compared. */
  #addMixedHead(sequence: Sequence, row: number, at: number, scoredId: number | null): void {
    if (scoredId === null) for (const change of sequence.logitChanges()) this.#mixedBias.add(row, change);
    const baseRow = sequence.comparesBase ? this.#addPlain(sequence, at, null, scoredId) : null;
    this.heads.push({ sequence, isMixed: true, row, hiddenRow: at, baseRow, scoredId });
  }

  #addAdapterBias(row: number, sequence: Sequence, adapters: readonly number[]): void {
    adapters.forEach((j, k) => {
      const { bias } = sequence.adapters[j].adapter;
      bias?.ids.forEach((id, i) => {
        this.#adapterBias.add(row, { id, penalty: 1, value: bias.values[i] });
        this.#biasedAdapters.push(k);
      });
    });
  }
}

class BiasList {
  readonly #rows: number[] = [];
  readonly #ids: number[] = [];
  readonly #offsets: number[] = [];
  readonly #penalties: number[] = [];
  readonly #values: number[] = [];

  /** `offset` is the adapter's bias of the same token. */
  add(row: number, { id, penalty, value }: LogitChange, offset = 0): void {
    this.#rows.push(row);
    this.#ids.push(id);
    this.#offsets.push(offset);
    this.#penalties.push(penalty);
    this.#values.push(value);
  }

  tensors(): Required<LogitChanges> {
    return {
      rows: Int32Array.from(this.#rows),
      ids: Int32Array.from(this.#ids),
      offsets: Float32Array.from(this.#offsets),
      penalties: Float32Array.from(this.#penalties),
      values: Float32Array.from(this.#values),
    };
  }
}

function inverseTemperatureOf({ sampling }: Sequence, scoredId: number | null): number {
  return scoredId !== null || isGreedy(sampling) ? 1 : 1 / sampling.temperature;
}

/** J. Rows of fewer adapters are padded with weight 0, which adds exactly 0, so the batch changes no bit of a row. */
function adaptersOfWidest(rows: readonly MixedRow[]): number {
  return rows.reduce((max, { adapters }) => Math.max(max, adapters.length), 0);
}

/** Whether only the likeliest token of a plain row is read. For mixed rows see `MixedInput`. */
function readsLikeliestOnly({ sequence, isMixed, scoredId, baseRow }: Head): boolean {
  if (isMixed) return baseRow === null;
  const { sampling, request } = sequence;
  return scoredId === null && baseRow === null && !request.compare && sampling.logprobs === null && isGreedy(sampling);
}

/** Scores of the whole vocabulary: the draw, or the sampled token's rank under the base, may be beyond the top K. */
function needsScores({ sequence, scoredId, baseRow }: Head): boolean {
  return scoredId === null && (baseRow !== null || !drawsFromCandidates(sequence.sampling));
}
